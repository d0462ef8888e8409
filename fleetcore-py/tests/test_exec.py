"""Commands: the cases of the Rust behaviour suite `exec`, by the same names, over every backend."""

from __future__ import annotations

import concurrent.futures
import os
import signal
import threading
import time
from pathlib import Path

import pytest

import fleetcore
from fleetcore import Fleet

#: Writes a line of eight bytes for each number.
PATTERN = 'i=0; while [ $i -lt "$1" ]; do printf "%07d\\n" $i; i=$((i + 1)); done'
#: A tree of processes, one of which ignores all but KILL. Prints both ids.
TREE = "echo $$; (trap '' TERM HUP INT; sh -c 'echo $PPID'; while :; do sleep 1000; done) & wait"


def pattern(lines: int) -> bytes:
    return b"".join(b"%07d\n" % n for n in range(lines))


def sh(script: str, *args: str) -> list[str]:
    return ["sh", "-c", script, "sh", *args]


def alive(fleet: Fleet, target: str, pid: int) -> bool:
    """Whether a process is there; a zombie is not."""
    state = fleet.run(target, sh('cat "/proc/$1/stat" 2>/dev/null', str(pid)))
    return state.ok and state.text.rsplit(")", 1)[1].split()[0] != "Z"


def gone(fleet: Fleet, target: str, *pids: int) -> bool:
    """Waits until processes are gone."""
    deadline = time.monotonic() + 20
    while any(alive(fleet, target, pid) for pid in pids):
        if time.monotonic() > deadline:
            return False
    return True


def read_until(stream: fleetcore.Output, word: bytes) -> bytes:
    """Reads until a text has come."""
    seen = b""
    while word not in seen:
        seen += next(stream).data
    return seen


# What is run, and with what.


def test_arguments_arrive_exactly(fleet: Fleet, target: str) -> None:
    words = ["$(id)", "a b", "*", "'", '"', "''", "\\", "\\n", "\n", "a\nb\n", "\t", "\x01\x1b\x7f", "`id`", "~", "-n", "--"]
    words += ["ü", "語", "", " ", "x" * 100_000]
    result = fleet.run(target, ["printf", "%s\\0", *words], check=True)
    assert result.stdout == b"".join(w.encode() + b"\0" for w in words)


def test_a_shell_script_runs_in_sh(fleet: Fleet, target: str) -> None:
    assert fleet.run(target, "echo $((6 * 7)) | cat", shell=True, check=True).text == "42\n"


def test_every_exit_code_comes_back(fleet: Fleet, target: str) -> None:
    for code in (0, 1, 2, 126, 127, 128, 130, 255):
        result = fleet.run(target, sh('exit "$1"', str(code)))
        assert (result.exit_code, result.ok, bool(result)) == (code, code == 0, code == 0)
    with pytest.raises(fleetcore.CommandFailedError) as caught:
        fleet.run(target, sh("echo why >&2; exit 3"), check=True)
    assert (caught.value.code, caught.value.exit_code) == ("command_failed", 3)
    assert "why" in str(caught.value) and caught.value.result is not None


def test_death_by_a_signal_is_told(fleet: Fleet, target: str) -> None:
    assert fleet.run(target, sh("kill -KILL $$")).exit_code == -signal.SIGKILL


def test_variables_arrive_exactly_beside_the_inherited(fleet: Fleet, target: str) -> None:
    env = {"A": "b c", "Q": "'\"$A`\\", "N": "x\ny", "E": ""}
    result = fleet.run(target, sh('printf "%s|%s|%s|%s|" "$A" "$Q" "$N" "${E-unset}"; test -n "$PATH"'), env=env, check=True)
    assert result.text == "b c|'\"$A`\\|x\ny||"


def test_the_environment_can_be_cleared(fleet: Fleet, target: str) -> None:
    result = fleet.run(target, ["/usr/bin/env"], env={"ONLY": "this"}, clear_env=True, check=True)
    assert "ONLY=this" in result.lines() and not [v for v in result.lines() if v.startswith("HOME=")]


def test_the_directory_is_set(fleet: Fleet, target: str, scratch: str) -> None:
    odd = f"{scratch}/a 'b' $c"
    fleet.files(target).mkdir(odd)
    assert fleet.run(target, ["pwd"], cwd=Path(odd), check=True).text == odd + "\n"


def test_a_missing_directory_is_not_found(fleet: Fleet, target: str) -> None:
    with pytest.raises(fleetcore.NotFoundError):
        fleet.run(target, ["true"], cwd="/no/such/directory")


def test_a_missing_program_is_not_found(fleet: Fleet, target: str) -> None:
    with pytest.raises(fleetcore.NotFoundError) as missing:
        fleet.run(target, ["/no/such/program"])
    assert missing.value.code == "not_found"
    with pytest.raises(fleetcore.NotFoundError):
        fleet.stream(target, ["no-such-program-in-the-path"])


def test_a_program_that_may_not_run_is_denied(fleet: Fleet, target: str, scratch: str) -> None:
    fleet.files(target).write(f"{scratch}/no", b"#!/bin/sh\n", mode=0o644)
    with pytest.raises(fleetcore.AccessDeniedError):
        fleet.run(target, [f"{scratch}/no"])


def test_bad_input_names_the_field_and_leaves_nothing(fleet: Fleet, target: str) -> None:
    with pytest.raises(fleetcore.InvalidInputError) as bad:
        fleet.run("-rf", ["true"])
    assert (bad.value.field, bad.value.code) == ("target", "invalid_input")
    with pytest.raises(fleetcore.InvalidInputError) as empty:
        fleet.run(target, [])
    assert empty.value.field == "argv" and empty.value.rule
    with pytest.raises(fleetcore.InvalidInputError) as negative:
        fleet.run(target, ["true"], timeout=-1)
    assert negative.value.field == "timeout"
    with pytest.raises(fleetcore.InvalidInputError) as size:
        fleet.run(target, ["true"], pty=(0, 24))
    assert size.value.field == "cols"
    for argv in (["a\0b"], ["true", "\0"]):
        with pytest.raises(fleetcore.InvalidInputError):
            fleet.run(target, argv)
    with pytest.raises(fleetcore.InvalidInputError):
        fleet.run(target, ["true"], env={"A=B": "c"})


@pytest.mark.parametrize(
    ("argv", "options"),
    [
        ("echo hello", {}),
        (["echo", 1], {}),
        (b"echo", {}),
        (None, {}),
        (["true"], {"env": {"A": 1}}),
        (["true"], {"env": "A=b"}),
        (["true"], {"cwd": 1}),
        (["true"], {"timeout": "1"}),
        (["true"], {"stdin": 1}),
        (["true"], {"pty": 80}),
        (["true"], {"nonsense": True}),
        (["true"], {"shell": True}),
    ],
)
def test_wrong_types_raise_before_anything_starts(argv: object, options: dict[str, object]) -> None:
    fleet = Fleet.local()
    with pytest.raises(TypeError):
        fleet.run("local", argv, **options)  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        fleet.stream("local", argv, **options)  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        fleet.run(7, ["true"])  # type: ignore[arg-type]


def test_user_is_switched_or_unsupported(fleet: Fleet, target: str) -> None:
    try:
        who = fleet.run(target, ["id", "-un"], user="nobody")
    except (fleetcore.UnsupportedError, fleetcore.AccessDeniedError):
        return
    assert who.text == "nobody\n"


def test_an_action_that_is_not_listed_is_unsupported(fleet: Fleet, target: str) -> None:
    with pytest.raises((fleetcore.UnsupportedError, fleetcore.NotFoundError)):
        fleet.machines.act(target, "no-such-action")


def test_ping_answers(fleet: Fleet, target: str) -> None:
    fleet.ping(target)
    targets = fleet.targets()
    assert target in [t.target for t in targets]
    assert f"<td>{target}</td>" in targets._repr_html_()
    fleet.ping(next(t for t in targets if t.target == target))


# What it writes.


def test_output_comes_on_two_channels_or_split_is_unsupported(fleet: Fleet, target: str) -> None:
    result = fleet.run(target, sh("echo out; echo err >&2; exit 3"))
    assert (result.stdout, result.stderr, result.exit_code) == (b"out\n", b"err\n", 3)
    assert result.duration > 0 and result.target == target


def test_merged_output_keeps_the_true_order(fleet: Fleet, target: str) -> None:
    script = "i=0; while [ $i -lt 200 ]; do echo $i; echo $i >&2; i=$((i + 1)); done"
    result = fleet.run(target, sh(script), merge_stderr=True, check=True)
    assert (result.text, result.stderr) == ("".join(f"{n}\n{n}\n" for n in range(200)), b"")


def test_every_byte_comes_as_it_was_written(fleet: Fleet, target: str) -> None:
    octal = "".join(f"\\{n:03o}" for n in range(256))
    assert fleet.run(target, sh('printf "$1$1"', octal), check=True).stdout == bytes(range(256)) * 2


def test_the_last_line_needs_no_newline(fleet: Fleet, target: str) -> None:
    with fleet.stream(target, sh("printf 'a\\nb'")) as stream:
        assert list(stream.lines()) == ["a", "b"]


def test_silence_is_no_output(fleet: Fleet, target: str) -> None:
    with fleet.stream(target, ["true"]) as stream:
        assert list(stream) == [] and stream.exit_code == 0


def test_much_output_comes_whole(fleet: Fleet, target: str) -> None:
    result = fleet.run(target, ["head", "-c", "3000000", "/dev/urandom"], check=True)
    assert len(result.stdout) == 3_000_000 and not result.truncated
    with fleet.stream(target, sh("seq 1 20000; echo no >&2; printf end")) as stream:
        assert list(stream.lines(channel="stdout")) == [*map(str, range(1, 20001)), "end"]


def test_the_end_comes_once_and_last(fleet: Fleet, target: str) -> None:
    with fleet.stream(target, sh("echo one; read x; echo two; exit 5"), stdin=True) as stream:
        first = next(stream)
        assert (first.data, first.offset, first.channel) == (b"one\n", 0, "stdout")
        assert stream.exit is None
        stream.send(b"\n")
        assert b"".join(c.data for c in stream) == b"two\n"
        assert (stream.exit_code, stream.offset) == (5, 8)
        assert list(stream) == [] and stream.wait().code == 5


def test_a_command_that_closes_its_output_is_not_over(fleet: Fleet, target: str) -> None:
    with fleet.stream(target, sh("echo before; exec >&- 2>&-; read x; exit 7"), stdin=True) as stream:
        read_until(stream, b"before\n")
        stream.send("\n")
        assert stream.wait().code == 7


def test_a_hundred_at_once_keep_apart(fleet: Fleet, target: str) -> None:
    def one(n: int) -> bool:
        result = fleet.run(target, sh('echo "$1"; echo "$1" >&2; exit $(($1 % 7))', str(n)))
        return (result.text, result.error_text, result.exit_code) == (f"{n}\n", f"{n}\n", n % 7)

    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        assert all(pool.map(one, range(100)))


def test_many_readers_see_the_same(fleet: Fleet, target: str) -> None:
    with fleet.stream(target, sh(f"read x; {PATTERN}", "5000"), stdin=True) as stream:
        others = [stream.resume(0) for _ in range(5)]
        with concurrent.futures.ThreadPoolExecutor(6) as pool:
            reads = [pool.submit(lambda o: b"".join(c.data for c in o), o) for o in [stream, *others]]
            stream.send("\n")
            assert [r.result() for r in reads] == [pattern(5000)] * 6


# What it reads.


def test_stdin_arrives_or_is_unsupported(fleet: Fleet, target: str) -> None:
    assert fleet.run(target, ["cat"], stdin="text", check=True).text == "text"
    assert fleet.run(target, ["cat"], stdin=bytearray(b"bytes"), check=True).text == "bytes"


def test_much_input_comes_whole_and_is_not_hoarded(fleet: Fleet, target: str) -> None:
    data = bytes(range(256)) * 8000
    assert fleet.run(target, ["cat"], stdin=data, check=True).stdout == data


def test_closing_ends_the_input(fleet: Fleet, target: str) -> None:
    with fleet.stream(target, sh("cat; echo end"), stdin=True) as stream:
        stream.close_stdin()
        stream.close_stdin()
        with pytest.raises(fleetcore.InvalidStateError):
            stream.send("x")
        assert list(stream.lines()) == ["end"]


def test_every_byte_goes_in_as_it_is(fleet: Fleet, target: str) -> None:
    assert fleet.run(target, ["cat"], stdin=bytes(range(256)), check=True).stdout == bytes(range(256))


def test_without_stdin_there_is_nothing_to_read(fleet: Fleet, target: str) -> None:
    assert fleet.run(target, sh("cat; echo end"), check=True).text == "end\n"


def test_writing_where_nobody_can_read_is_refused(fleet: Fleet, target: str) -> None:
    with fleet.stream(target, ["sleep", "1000"]) as stream:
        with pytest.raises(fleetcore.InvalidStateError):
            stream.send("x")
    with fleet.stream(target, ["true"], stdin=True) as stream:
        stream.wait()
        with pytest.raises(fleetcore.InvalidStateError):
            stream.send("x")


def test_a_writer_that_is_stuck_stops_nobody(fleet: Fleet, target: str) -> None:
    with fleet.stream(target, sh("echo ready; sleep 1000"), stdin=True) as stream:
        read_until(stream, b"ready")
        raised: list[BaseException] = []

        def stuck() -> None:
            try:
                stream.send(bytes(8 << 20))
            except fleetcore.FleetError as e:
                raised.append(e)

        writer = threading.Thread(target=stuck)
        writer.start()
        stream.cancel()
        assert not stream.wait().ok
        writer.join(30)
        assert not writer.is_alive()


def test_a_reader_that_leaves_is_told(fleet: Fleet, target: str) -> None:
    # One that is given all its input at once and does not want all of it is none the worse.
    assert fleet.run(target, ["head", "-c", "1"], stdin=bytes(8 << 20), check=True).stdout == b"\0"


# How it ends.


def test_a_time_limit_ends_a_command_as_failed(fleet: Fleet, target: str) -> None:
    result = fleet.run(target, sh("echo $$; exec sleep 1000"), timeout=0.5)
    assert result.timed_out and not result.ok and result.reason == "timed_out"
    assert gone(fleet, target, int(result.text))


def test_a_time_limit_ends_what_ignores_term(fleet: Fleet, target: str) -> None:
    script = "trap '' TERM HUP; while :; do sleep 1000; done"
    result = fleet.run(target, sh(script), timeout=0.2, grace=0.2)
    assert result.timed_out and result.exit_code == -signal.SIGKILL


def test_cancel_asks_politely_first(fleet: Fleet, target: str) -> None:
    script = "trap 'echo bye; kill $! 2>/dev/null; exit 3' TERM; sleep 1000 & echo ready; wait"
    with fleet.stream(target, sh(script)) as stream:
        seen = read_until(stream, b"ready\n")
        stream.cancel()
        stream.cancel()
        seen += b"".join(c.data for c in stream)
        assert seen == b"ready\nbye\n" and stream.exit is not None
        assert (stream.exit.code, stream.exit.reason) == (3, "requested")


def test_cancel_kills_what_ignores_term(fleet: Fleet, target: str) -> None:
    with fleet.stream(target, sh("trap '' TERM HUP INT; echo ready; while :; do sleep 1000; done"), grace=0.2) as stream:
        read_until(stream, b"ready")
        stream.cancel()
        assert stream.wait().signal == signal.SIGKILL


def test_cancel_ends_the_whole_tree(fleet: Fleet, target: str) -> None:
    with fleet.stream(target, sh(TREE), grace=0.2) as stream:
        pids = []
        for line in stream.lines():
            pids.append(int(line))
            if len(pids) == 2:
                break
    assert stream.exit is not None and stream.exit.reason == "requested"
    assert gone(fleet, target, *pids)


def test_dropping_the_owner_ends_the_whole_tree(fleet: Fleet, target: str) -> None:
    stream = fleet.stream(target, sh(TREE), grace=0.2)
    seen = b""
    while seen.count(b"\n") < 2:
        seen += next(stream).data
    del stream
    assert gone(fleet, target, *map(int, seen.split()))


def test_leaving_the_block_of_a_talker_nobody_listens_to(fleet: Fleet, target: str) -> None:
    with fleet.stream(target, ["yes"]) as stream:
        next(stream)
    assert stream.exit is not None


def test_dropping_a_handle_or_a_wait_ends_nothing(fleet: Fleet, target: str) -> None:
    with fleet.stream(target, sh("echo up; read x; echo on"), stdin=True) as stream:
        read_until(stream, b"up\n")
        with fleet.attach(stream.id) as other:
            read_until(other, b"up\n")
        del other
        stream.send("\n")
        assert b"".join(c.data for c in stream) == b"on\n" and stream.exit_code == 0


def test_a_detached_command_goes_on(fleet: Fleet, target: str) -> None:
    with fleet.stream(target, sh("echo $$; read x; echo bye"), stdin=True) as stream:
        pid = int(next(stream).text)
        id = stream.detach()
    assert alive(fleet, target, pid)
    with fleet.attach(id) as again:
        again.send(b"\n")
        assert again.wait().ok


def test_a_leak_is_told_and_not_waited_for(fleet: Fleet, target: str) -> None:
    with fleet.stream(target, sh("sleep 1000 & echo $!; exit 4")) as stream:
        pid = int("".join(stream.lines()))
        assert stream.exit is not None and (stream.exit.code, stream.exit.leaked) == (4, True)
    fleet.run(target, ["kill", "-9", str(pid)], check=True)


def test_signals_arrive_or_are_unsupported(fleet: Fleet, target: str) -> None:
    script = (
        "for s in HUP INT QUIT USR1 USR2; do trap \"echo got $s\" $s; done; echo ready; "
        "while :; do sleep 1000 & wait; kill $!; done"
    )
    with fleet.stream(target, sh(script), grace=0.2) as stream:
        read_until(stream, b"ready")
        for which, name in (("HUP", b"HUP"), (signal.SIGUSR1, b"USR1"), ("SIGUSR2", b"USR2"), (3, b"QUIT")):
            stream.signal(which)
            read_until(stream, b"got " + name)
        with pytest.raises(fleetcore.InvalidInputError, match="signal"):
            stream.signal("NOPE")
        stream.signal(signal.SIGKILL)
        ended = stream.wait()
        assert (ended.signal, ended.reason) == (signal.SIGKILL, None)


def test_signalling_what_has_ended_is_an_invalid_state(fleet: Fleet, target: str) -> None:
    with fleet.stream(target, ["true"]) as stream:
        stream.wait()
        with pytest.raises(fleetcore.InvalidStateError):
            stream.signal("TERM")
        stream.cancel()
        assert stream.wait().ok


def test_all_who_wait_are_told_the_same(fleet: Fleet, target: str) -> None:
    with fleet.stream(target, sh("read x; exit 5"), stdin=True) as stream:
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            waits = [pool.submit(lambda: fleet.attach(stream.id).wait().code) for _ in range(8)]
            stream.send("\n")
            assert [w.result() for w in waits] == [5] * 8
        assert stream.wait().code == 5


# Its output again.


def test_any_offset_resumes_with_the_same_bytes(fleet: Fleet, target: str) -> None:
    with fleet.stream(target, sh("printf abcdef; read x; printf ghi"), stdin=True) as stream:
        read_until(stream, b"f")
        with fleet.attach(stream.id, offset=3) as again:
            assert next(again).data == b"def"
        stream.send("\n")
        stream.wait()
        for offset in range(10):
            assert b"".join(c.data for c in stream.resume(offset)) == b"abcdefghi"[offset:]


def test_an_offset_beyond_the_end_is_the_end(fleet: Fleet, target: str) -> None:
    with fleet.stream(target, ["echo", "hello"]) as stream:
        stream.wait()
        beyond = stream.resume(1 << 40)
        assert list(beyond) == [] and beyond.exit is not None and beyond.exit.ok


def test_what_was_forgotten_is_an_explicit_gap(fleet: Fleet, target: str) -> None:
    options = {"wait_for_reader": False, "replay_bytes": 4096}
    with fleet.stream(target, sh(f"{PATTERN}; read x", "20000"), stdin=True, **options) as stream:  # type: ignore[arg-type]
        got = missing = 0
        for chunk in stream:
            assert chunk.data == pattern(20000)[chunk.offset : chunk.end]
            got += len(chunk.data)
            missing += chunk.missing
            if chunk.end == 160_000:
                stream.send("\n")
        assert missing + got == 160_000


def test_drop_oldest_never_slows_the_command(fleet: Fleet, target: str) -> None:
    with fleet.stream(target, sh(PATTERN, "50000"), wait_for_reader=False, replay_bytes=4096) as stream:
        while [c for c in fleet.commands() if c.id == stream.id and c.state == "running"]:
            pass
        assert stream.wait().ok


def test_block_holds_every_byte_for_a_slow_reader(fleet: Fleet, target: str) -> None:
    with fleet.stream(target, sh(PATTERN, "20000"), replay_bytes=4096) as stream:
        got = b""
        for chunk in stream:
            assert (chunk.missing, chunk.offset) == (0, len(got))
            got += chunk.data
            os.sched_yield()
        assert got == pattern(20000)


# On a terminal.


def test_pty_runs_on_a_terminal_or_is_unsupported(fleet: Fleet, target: str) -> None:
    result = fleet.run(target, sh("test -t 0 && test -t 1 && echo yes"), pty=(80, 24), check=True)
    assert result.text.strip() == "yes"


def test_the_size_is_set_and_changes(fleet: Fleet, target: str) -> None:
    script = "trap 'stty size; exit 7' USR1; stty size; echo ready; while :; do sleep 0.05; done"
    with fleet.stream(target, sh(script), pty=(101, 33)) as stream:
        assert b"33 101" in read_until(stream, b"ready")
        stream.resize(120, 40)
        stream.signal(signal.SIGUSR1)
        assert b"40 120" in b"".join(c.data for c in stream) and stream.exit_code == 7


def test_ctrl_c_interrupts_the_foreground(fleet: Fleet, target: str) -> None:
    with fleet.stream(target, sh("trap 'echo caught; exit 9' INT; echo ready; while :; do sleep 0.05; done"), pty=(80, 24)) as stream:
        read_until(stream, b"ready")
        stream.send(b"\x03")
        assert b"caught" in b"".join(c.data for c in stream) and stream.exit_code == 9


def test_ctrl_d_ends_the_input(fleet: Fleet, target: str) -> None:
    with fleet.stream(target, ["cat"], pty=(80, 24)) as stream:
        stream.send("line\n")
        read_until(stream, b"line\r\nline\r\n")
        stream.close_stdin()
        assert stream.wait().code == 0


def test_a_resize_needs_a_terminal_and_a_size(fleet: Fleet, target: str) -> None:
    with fleet.stream(target, ["sleep", "1000"]) as stream:
        with pytest.raises(fleetcore.FleetError):
            stream.resize(80, 24)
        with pytest.raises(fleetcore.InvalidInputError):
            stream.resize(0, 24)


# On many targets.


def test_run_many(fleet: Fleet, target: str) -> None:
    seen: list[str] = []
    results = fleet.run_many(
        [target, "nowhere/at-all"], sh("echo hi; echo no >&2"), parallel=2, progress=lambda r: seen.append(r.target)
    )
    by = {r.target: r for r in results}
    assert set(by) == {target, "nowhere/at-all"} == set(seen)
    good, bad = by[target], by["nowhere/at-all"]
    assert good.ok and good.result is not None
    assert (good.result.stdout, good.result.stderr) == (b"hi\n", b"no\n")
    assert not bad.ok and bad.result is None and bad.error
    assert "<table>" in results._repr_html_()
    with pytest.raises(fleetcore.InvalidInputError):
        fleet.run_many([target], ["true"], parallel=0)
    with pytest.raises(TypeError):
        fleet.run_many(target, ["true"])
