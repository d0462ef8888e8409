"""Commands: the cases of the Rust behaviour suite `exec`, over every backend."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import pytest

import fleetcore


def alive(fleet: fleetcore.Fleet, target: str, pid: int) -> bool:
    """Whether a process is there; a zombie is not."""
    state = fleet.run(target, ["sh", "-c", 'cat "/proc/$1/stat" 2>/dev/null', "sh", str(pid)])
    return state.ok and state.text.rsplit(")", 1)[1].split()[0] != "Z"


def gone(fleet: fleetcore.Fleet, target: str, pid: int) -> bool:
    """Waits until a process is gone."""
    deadline = time.monotonic() + 20
    while alive(fleet, target, pid):
        if time.monotonic() > deadline:
            return False
    return True


def test_output_and_exit_code(fleet: fleetcore.Fleet, target: str) -> None:
    result = fleet.run(target, ["sh", "-c", "echo out; echo err >&2; exit 3"])
    assert (result.stdout, result.stderr, result.exit_code) == (b"out\n", b"err\n", 3)
    assert not result and result.duration > 0 and result.target == target
    with pytest.raises(fleetcore.CommandFailedError) as caught:
        result.check()
    assert (caught.value.code, caught.value.exit_code) == ("command_failed", 3)
    assert "err" in str(caught.value)
    with pytest.raises(fleetcore.CommandFailedError):
        fleet.run(target, ["false"], check=True)


def test_arguments_are_not_interpreted(fleet: fleetcore.Fleet, target: str) -> None:
    words = ["$(id)", "a b", "*", "'", '"', "\\", "ü", "-n", ""]
    result = fleet.run(target, ["printf", "%s\\n", *words], check=True)
    assert result.lines() == words


def test_shell(fleet: fleetcore.Fleet, target: str) -> None:
    assert fleet.run(target, "echo $((6 * 7)) | cat", shell=True, check=True).text == "42\n"


def test_binary_output(fleet: fleetcore.Fleet, target: str) -> None:
    result = fleet.run(target, ["head", "-c", "3000000", "/dev/urandom"], check=True)
    assert len(result.stdout) == 3_000_000 and not result.truncated


def test_stdin(fleet: fleetcore.Fleet, target: str) -> None:
    data = bytes(range(256)) * 4000
    assert fleet.run(target, ["cat"], stdin=data, check=True).stdout == data
    assert fleet.run(target, ["cat"], stdin="text", check=True).text == "text"
    assert fleet.run(target, ["cat"], check=True).stdout == b""
    # A command that does not want all of it.
    assert fleet.run(target, ["head", "-c", "1"], stdin=data, check=True).stdout == b"\0"


def test_env_and_cwd(fleet: fleetcore.Fleet, target: str) -> None:
    result = fleet.run(target, ["sh", "-c", 'echo "$A"; pwd'], env={"A": "b c"}, cwd=Path("/tmp"), check=True)
    assert result.lines() == ["b c", "/tmp"]


def test_merged_output(fleet: fleetcore.Fleet, target: str) -> None:
    result = fleet.run(target, ["sh", "-c", "echo a; echo b >&2; echo c"], merge_stderr=True, check=True)
    assert (result.text, result.stderr) == ("a\nb\nc\n", b"")


def test_terminal(fleet: fleetcore.Fleet, target: str) -> None:
    result = fleet.run(target, ["sh", "-c", "test -t 1 && stty size"], pty=(101, 33), check=True)
    assert result.text.strip() == "33 101"


def test_signal_is_negative(fleet: fleetcore.Fleet, target: str) -> None:
    result = fleet.run(target, ["sh", "-c", "kill -KILL $$"])
    assert result.exit_code == -signal.SIGKILL


def test_timeout_ends_it(fleet: fleetcore.Fleet, target: str) -> None:
    result = fleet.run(target, ["sh", "-c", "echo $$; exec sleep 1000"], timeout=0.5)
    assert result.timed_out and not result.ok
    assert gone(fleet, target, int(result.text))


def test_errors_have_the_right_class_and_name_the_field(fleet: fleetcore.Fleet, target: str) -> None:
    with pytest.raises(fleetcore.NotFoundError) as missing:
        fleet.run(target, ["/no/such/program"])
    assert missing.value.code == "not_found"
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
    fleet = fleetcore.Fleet.local()
    with pytest.raises(TypeError):
        fleet.run("local", argv, **options)  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        fleet.stream("local", argv, **options)  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        fleet.run(7, ["true"])  # type: ignore[arg-type]


def test_stream_as_it_comes(fleet: fleetcore.Fleet, target: str) -> None:
    with fleet.stream(target, ["sh", "-c", "echo one; read x; echo two; exit 5"], stdin=True) as stream:
        first = next(stream)
        assert (first.data, first.offset, first.channel) == (b"one\n", 0, "stdout")
        assert stream.exit is None
        stream.send(b"\n")
        assert b"".join(c.data for c in stream) == b"two\n"
        assert (stream.exit_code, stream.offset) == (5, 8)


def test_stream_lines(fleet: fleetcore.Fleet, target: str) -> None:
    with fleet.stream(target, ["sh", "-c", "seq 1 20000; echo no >&2; printf end"]) as stream:
        lines = list(stream.lines(channel="stdout"))
    assert lines == [*map(str, range(1, 20001)), "end"]


def test_resume_from_an_offset(fleet: fleetcore.Fleet, target: str) -> None:
    with fleet.stream(target, ["sh", "-c", "printf abcdef; read x; printf ghi"], stdin=True) as stream:
        got = b""
        while len(got) < 6:
            got += next(stream).data
        with fleet.attach(stream.id, offset=3) as again:
            assert next(again).data == b"def"
        stream.send("\n")
        stream.wait()
        assert b"".join(c.data for c in stream.resume(4)) == b"efghi"


def test_leaving_the_block_ends_it(fleet: fleetcore.Fleet, target: str) -> None:
    with fleet.stream(target, ["sh", "-c", "echo $$; exec sleep 1000"]) as stream:
        pid = int(next(stream).text)
    assert stream.exit is not None and stream.exit.reason == "requested"
    assert gone(fleet, target, pid)


def test_leaving_the_block_of_a_talker_nobody_listens_to(fleet: fleetcore.Fleet, target: str) -> None:
    with fleet.stream(target, ["yes"]) as stream:
        next(stream)
    assert stream.exit is not None


def test_dropping_it_ends_it(fleet: fleetcore.Fleet, target: str) -> None:
    stream = fleet.stream(target, ["sh", "-c", "echo $$; exec sleep 1000"])
    pid = int(next(stream).text)
    del stream
    assert gone(fleet, target, pid)


def test_detached_runs_on(fleet: fleetcore.Fleet, target: str) -> None:
    with fleet.stream(target, ["sh", "-c", "echo $$; read x; echo bye"], stdin=True) as stream:
        pid = int(next(stream).text)
        id = stream.detach()
    assert alive(fleet, target, pid)
    with fleet.attach(id) as again:
        again.send(b"\n")
        assert again.wait().ok


def test_signal_and_resize(fleet: fleetcore.Fleet, target: str) -> None:
    script = "trap 'stty size; exit 7' USR1; echo ready; while :; do sleep 0.05; done"
    with fleet.stream(target, ["sh", "-c", script], pty=(80, 24)) as stream:
        assert b"ready" in next(stream).data
        stream.resize(120, 40)
        stream.signal(signal.SIGUSR1)
        rest = b"".join(c.data for c in stream)
        assert b"40 120" in rest and stream.exit_code == 7
        with pytest.raises(fleetcore.InvalidInputError, match="signal"):
            stream.signal("NOPE")


def test_cancel(fleet: fleetcore.Fleet, target: str) -> None:
    with fleet.stream(target, ["sleep", "1000"]) as stream:
        stream.cancel()
        ended = stream.wait()
    assert ended.reason == "requested" and not ended.ok


def test_many_at_once(fleet: fleetcore.Fleet, target: str) -> None:
    import concurrent.futures

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        results = list(pool.map(lambda n: fleet.run(target, ["echo", str(n)], check=True).text, range(24)))
    assert results == [f"{n}\n" for n in range(24)]


def test_run_many(fleet: fleetcore.Fleet, target: str) -> None:
    seen: list[str] = []
    results = fleet.run_many(
        [target, "nowhere/at-all"], ["sh", "-c", "echo hi; echo no >&2"], parallel=2,
        progress=lambda r: seen.append(r.target),
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


def test_targets(fleet: fleetcore.Fleet, target: str) -> None:
    targets = fleet.targets()
    assert target in [t.target for t in targets]
    assert f"<td>{target}</td>" in targets._repr_html_()
    one = next(t for t in targets if t.target == target)
    assert fleet.run(one, ["true"]).ok
    fleet.ping(one)
