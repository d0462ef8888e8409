"""Sessions: the cases of the Rust behaviour suite `session`, over every backend."""

from __future__ import annotations

import threading

import pytest

import fleetcore


def test_the_shell_remembers(fleet: fleetcore.Fleet, target: str) -> None:
    with fleet.session(target, cwd="/tmp", env={"A": "b"}) as shell:
        turn = shell.run('cd /; X=5; echo "$A"')
        assert (turn.text.strip(), turn.exit_code, turn.cwd, turn.state) == ("b", 0, "/", "completed")
        assert shell.run("echo $X; (exit 3)").exit_code == 3
        assert shell.cwd == "/" and not shell.busy and shell.ended is None
        assert shell.id in repr(shell)


def test_expect_and_answer(fleet: fleetcore.Fleet, target: str) -> None:
    with fleet.session(target) as shell:
        turn = shell.run("read -p 'name? ' n; echo hello $n", expect="name? ")
        assert (turn.state, turn.expected, turn.running) == ("expected", "name? ", True)
        with pytest.raises(fleetcore.BusyError):
            shell.run("true")
        shell.send("world\n")
        assert "hello world" in shell.resume().text


def test_control_comes_back(fleet: fleetcore.Fleet, target: str) -> None:
    with fleet.session(target) as shell:
        assert shell.run("sleep 1000", timeout=0.2).state == "timeout"
        assert shell.busy
        assert shell.interrupt().exit_code == 130
        assert shell.run("echo x; sleep 1000", quiet=0.3).state == "quiet"
        shell.keys("Ctrl-C")
        assert shell.resume().exit_code == 130


def test_interrupt_from_another_thread(fleet: fleetcore.Fleet, target: str) -> None:
    with fleet.session(target) as shell:
        codes: list[int | None] = []
        waiting = threading.Thread(target=lambda: codes.append(shell.run("sh -c 'echo go; exec sleep 1000'").exit_code))
        output = shell.output(0)
        waiting.start()
        seen = b""
        while b"go\r\n" not in seen:
            seen += next(output).data
        assert shell.interrupt().exit_code == 130
        waiting.join(30)
        assert codes == [130]


def test_screen_and_size(fleet: fleetcore.Fleet, target: str) -> None:
    with fleet.session(target, size=(100, 30)) as shell:
        assert shell.run("stty size").text.strip() == "30 100"
        shell.resize(90, 20)
        assert shell.run("stty size; echo 'on the screen'").text.split("\n")[0].strip() == "20 90"
        screen = shell.screen()
        assert "on the screen" in screen.text and len(screen.lines) == 20


def test_the_end(fleet: fleetcore.Fleet, target: str) -> None:
    with fleet.session(target) as shell:
        assert shell.run("exit 4").state == "ended"
        with pytest.raises(fleetcore.InvalidStateError):
            shell.run("true")


def test_bad_keys(fleet: fleetcore.Fleet, target: str) -> None:
    with fleet.session(target) as shell:
        with pytest.raises(fleetcore.InvalidInputError, match="keys"):
            shell.keys("Hyper-X")
        with pytest.raises(TypeError):
            shell.keys(7)  # type: ignore[arg-type]
    with pytest.raises(fleetcore.InvalidInputError):
        fleet.session(target, id="no/slashes")
    with pytest.raises(TypeError):
        fleet.session(target, size="80x24")  # type: ignore[arg-type]
