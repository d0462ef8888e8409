"""Sessions: the cases of the Rust behaviour suite `session`, by the same names, over every backend."""

from __future__ import annotations

import threading

import pytest
from test_exec import gone

import fleetcore
from fleetcore import Fleet


def test_state_exit_code_and_directory_are_told(fleet: Fleet, target: str) -> None:
    with fleet.session(target, cwd="/tmp", env={"A": "b"}) as shell:
        turn = shell.run('cd /; X=5; echo "$A"')
        assert (turn.text.strip(), turn.exit_code, turn.cwd, turn.state) == ("b", 0, "/", "completed")
        assert shell.run("echo $X; (exit 3)").exit_code == 3
        assert shell.cwd == "/" and not shell.busy and shell.ended is None
        assert shell.id in repr(shell)


def test_text_is_what_the_command_wrote(fleet: Fleet, target: str) -> None:
    with fleet.session(target) as shell:
        assert shell.run("printf 'a\\nb'").text == "a\nb"
        assert shell.run("echo $((6 * 7)); echo err >&2").text == "42\nerr\n"


def test_several_lines_are_one_turn(fleet: Fleet, target: str) -> None:
    with fleet.session(target) as shell:
        turn = shell.run("for n in 1 2; do\n  echo $n\ndone\nfalse")
        assert (turn.text, turn.exit_code, turn.seq) == ("1\n2\n", 1, 1)


def test_nothing_is_a_turn_too(fleet: Fleet, target: str) -> None:
    with fleet.session(target) as shell:
        assert (shell.run("").text, shell.run("# nothing").exit_code) == ("", 0)


def test_a_syntax_error_ends_the_turn(fleet: Fleet, target: str) -> None:
    with fleet.session(target) as shell:
        assert shell.run("echo )").exit_code not in (0, None)
        assert shell.run("echo fine").text == "fine\n"


def test_an_incomplete_command_does_not_hang(fleet: Fleet, target: str) -> None:
    with fleet.session(target) as shell:
        with pytest.raises(fleetcore.InvalidInputError):
            shell.run("echo 'never closed")
        assert shell.run("echo fine").text == "fine\n"


def test_keys_are_not_commands(fleet: Fleet, target: str) -> None:
    with fleet.session(target) as shell:
        with pytest.raises(fleetcore.InvalidInputError, match="keys"):
            shell.keys("Hyper-X")
        with pytest.raises(TypeError):
            shell.keys(7)  # type: ignore[arg-type]
        with pytest.raises(fleetcore.InvalidInputError) as empty:
            shell.run("true", expect="")
        assert empty.value.field == "expect"
        assert not shell.busy


def test_soft_timeout_hands_back_and_interrupt_ends(fleet: Fleet, target: str) -> None:
    with fleet.session(target) as shell:
        assert shell.run("sleep 1000", timeout=0.2).state == "timeout"
        assert shell.busy
        with pytest.raises(fleetcore.BusyError):
            shell.run("true")
        turn = shell.interrupt()
        assert turn.exit_code == 130 and shell.interrupt() == turn
        assert shell.run("echo next").text == "next\n"


def test_an_interrupt_between_two_programs_is_heeded(fleet: Fleet, target: str) -> None:
    with fleet.session(target) as shell:
        for _ in range(10):
            assert shell.run("echo begun; sleep 1000", expect="begun\n").expected == "begun\n"
            assert shell.interrupt().exit_code == 130


def test_quiet_timeout_hands_back(fleet: Fleet, target: str) -> None:
    with fleet.session(target) as shell:
        turn = shell.run("echo x; sleep 1000", quiet=0.3)
        assert (turn.state, turn.running, turn.ok) == ("quiet", True, False)
        shell.keys("Ctrl-C")
        assert shell.resume().exit_code == 130


def test_expected_text_hands_back(fleet: Fleet, target: str) -> None:
    with fleet.session(target) as shell:
        turn = shell.run("read -p 'name? ' n; echo hello $n", expect=["other", "name? "])
        assert (turn.state, turn.expected, turn.running) == ("expected", "name? ", True)
        shell.send("world\n")
        assert "hello world" in shell.resume().text


def test_a_program_is_answered_by_keys(fleet: Fleet, target: str) -> None:
    with fleet.session(target) as shell:
        shell.run("cat; echo eof $?", quiet=0.2)
        shell.keys("a", "b", "Backspace", "é", "Enter")
        assert "aé" in shell.resume(expect="\naé\n").text
        shell.keys("Ctrl-D")
        assert shell.resume().text.endswith("aé\neof 0\n")


def test_two_waiters_get_the_same_turn(fleet: Fleet, target: str) -> None:
    with fleet.session(target) as shell:
        for _ in range(5):
            turns: list[fleetcore.Turn] = []
            waiting = threading.Thread(target=lambda: turns.append(shell.run("sleep 1000")))
            waiting.start()
            while not shell.busy:
                pass
            # Once: it must not get lost on a shell that is just about to start the program.
            turn = shell.interrupt()
            waiting.join(30)
            assert turns == [turn] and turn.exit_code == 130


def test_there_must_be_something_to_resume(fleet: Fleet, target: str) -> None:
    with fleet.session(target) as shell:
        with pytest.raises(fleetcore.InvalidStateError):
            shell.resume()
        with pytest.raises(fleetcore.InvalidStateError):
            shell.interrupt()


def test_exit_ends_the_session(fleet: Fleet, target: str) -> None:
    with fleet.session(target) as shell:
        assert shell.run("exit 4").state == "ended"
        with pytest.raises(fleetcore.InvalidStateError):
            shell.run("true")
        assert shell.close().code == 4


def test_exclamation_marks_are_text(fleet: Fleet, target: str) -> None:
    with fleet.session(target) as shell:
        assert shell.run('echo "a!b" !!').text == "a!b !!\n"


def test_a_flood_is_followed_to_its_end(fleet: Fleet, target: str) -> None:
    with fleet.session(target) as shell:
        turn = shell.run("seq 1 30000; (exit 7)")
        assert turn.exit_code == 7 and turn.text.endswith("29999\n30000\n")


def test_long_commands_arrive_whole_or_not_at_all(fleet: Fleet, target: str) -> None:
    with fleet.session(target) as shell:
        assert shell.run(f"x={'y' * 20_000}; echo ${{#x}}").text == "20000\n"


def test_strange_directories_are_told(fleet: Fleet, target: str, scratch: str) -> None:
    with fleet.session(target) as shell:
        for name in ("a b", "ü", "50%", "a;b"):
            fleet.files(target).mkdir(f"{scratch}/{name}")
            assert shell.run(f"cd '{scratch}/{name}'").cwd == f"{scratch}/{name}"


def test_the_screen_is_what_a_person_sees(fleet: Fleet, target: str) -> None:
    with fleet.session(target, size=(100, 30)) as shell:
        shell.run("clear; printf '\\033[5;3Hhere'")
        screen = shell.screen()
        assert screen.lines[4].startswith("  here") and len(screen.lines) == 30
        assert "here" in str(screen)


def test_size_changes_reach_programs(fleet: Fleet, target: str) -> None:
    with fleet.session(target, size=(100, 30)) as shell:
        assert shell.run("stty size").text.strip() == "30 100"
        shell.resize(90, 20)
        assert shell.run("stty size").text.strip() == "20 90"
        assert len(shell.screen().lines) == 20
    with pytest.raises(TypeError):
        fleet.session(target, size="80x24")  # type: ignore[arg-type]


def test_viewers_see_every_byte(fleet: Fleet, target: str) -> None:
    with fleet.session(target) as shell:
        output = shell.output(0)
        shell.run("echo seen")
        seen = b""
        while b"seen\r\n" not in seen:
            chunk = next(output)
            assert chunk.offset == len(seen)
            seen += chunk.data


def test_closing_ends_every_job(fleet: Fleet, target: str) -> None:
    with fleet.session(target) as shell:
        pid = int(shell.run("sleep 1000 & echo $!").text.split()[-1])
    assert gone(fleet, target, pid)


def test_dropping_ends_every_job(fleet: Fleet, target: str) -> None:
    shell = fleet.session(target)
    pid = int(shell.run("sleep 1000 & echo $!").text.split()[-1])
    del shell
    assert gone(fleet, target, pid)


def test_start_up_commands_run_first(fleet: Fleet, target: str) -> None:
    with fleet.session(target, startup=["cd /", "X=7"]) as shell:
        turn = shell.run("echo $X")
        assert (turn.text, turn.cwd, turn.seq) == ("7\n", "/", 1)
    with pytest.raises(fleetcore.FleetError):
        fleet.session(target, startup=["false"])


def test_bad_shells_are_refused(fleet: Fleet, target: str) -> None:
    with pytest.raises(fleetcore.FleetError):
        fleet.session(target, shell=["/no/such/shell"])
    with pytest.raises(fleetcore.InvalidInputError):
        fleet.session(target, id="no/slashes")


def test_many_turns_in_a_row(fleet: Fleet, target: str) -> None:
    with fleet.session(target) as shell:
        for n in range(100):
            turn = shell.run(f"echo {n}")
            assert (turn.text, turn.seq) == (f"{n}\n", n + 1)
