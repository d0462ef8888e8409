"""Talks to programs that ask: a shell that remembers, and waits that end when a text appears."""

from __future__ import annotations

import sys

import fleetcore


def main(target: str = "local") -> int:
    fleet = fleetcore.Fleet.local(ssh=True)
    with fleet.session(target, cwd="/tmp") as shell:
        shell.run("n=3")
        turn = shell.run('read -p "Really delete $n files? [y/N] " answer; echo "you said $answer"', expect="[y/N]")
        if turn.expected is None:
            print(f"it did not ask: {turn.text}", file=sys.stderr)
            return 1
        shell.send("n\n")
        turn = shell.resume(timeout=10)
        print(turn.text.strip())
        # A program that does not end by itself: look at it for a moment, then Ctrl-C.
        turn = shell.run("ping -i 0.2 localhost || sleep 1000", timeout=1)
        print(f"still running: {turn.running}; {len(turn.text.splitlines())} lines so far")
        print(f"after Ctrl-C: exit code {shell.interrupt().exit_code}")
        print(shell.screen())
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
