"""Follows a file of a target, live, like `tail -f`; Ctrl-C ends it, and the command with it.

    python tail.py /var/log/syslog [TARGET]
"""

from __future__ import annotations

import sys

import fleetcore


def main(path: str, target: str = "local") -> None:
    fleet = fleetcore.Fleet.local(ssh=True)
    with fleet.stream(target, ["tail", "-n", "10", "-F", "--", path]) as stream:
        try:
            for line in stream.lines(channel="stdout"):
                print(line, flush=True)
        except KeyboardInterrupt:
            pass
    print(f"ended at byte {stream.offset}", file=sys.stderr)


if __name__ == "__main__":
    main(*sys.argv[1:])
