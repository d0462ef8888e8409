"""The seed of the Python package: run, stream, cancel, errors, interpreter exit."""

import asyncio
import os
import subprocess
import sys

import pytest

import fleetcore


def test_run_returns_output_and_exit_code() -> None:
    result = fleetcore.Fleet.local().run("local", ["sh", "-c", "echo out; echo err >&2; exit 3"])
    assert (result.stdout, result.stderr, result.exit_code) == (b"out\n", b"err\n", 3)
    with pytest.raises(fleetcore.CommandFailedError) as caught:
        result.check()
    assert caught.value.code == "command_failed"


def test_errors_have_the_right_class_and_name_the_field() -> None:
    fleet = fleetcore.Fleet.local()
    with pytest.raises(fleetcore.NotFoundError):
        fleet.run("local", ["/no/such/program"])
    with pytest.raises(fleetcore.InvalidInputError, match="target"):
        fleet.run("-rf", ["true"])
    with pytest.raises(fleetcore.InvalidInputError, match="argv"):
        fleet.run("local", [])


def test_stream_is_exact_although_waits_are_cancelled() -> None:
    async def main() -> bytes:
        command = await fleetcore.Fleet.local().spawn("local", ["seq", "1", "20000"])
        got = b""
        async with command:
            stream = command.stream()
            while True:
                try:
                    offset, channel, data = await asyncio.wait_for(anext(stream), 0.0005)
                except TimeoutError:
                    continue
                except StopAsyncIteration:
                    break
                assert (offset, channel) == (len(got), "stdout")
                got += data
        return got

    assert asyncio.run(main()) == b"".join(b"%d\n" % n for n in range(1, 20001))


def test_leaving_the_block_ends_the_command() -> None:
    async def main() -> int:
        command = await fleetcore.Fleet.local().spawn("local", ["sh", "-c", "echo $$; exec sleep 1000"])
        async with command:
            _, _, data = await anext(command.stream())
        return int(data)

    pid = asyncio.run(main())
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_interpreter_exits_cleanly_with_a_running_command() -> None:
    script = (
        "import asyncio, fleetcore\n"
        "async def main():\n"
        "    global c\n"
        "    c = await fleetcore.Fleet.local().spawn('local', ['sleep', '1000'])\n"
        "asyncio.run(main())\n"
    )
    for _ in range(5):
        subprocess.run([sys.executable, "-c", script], check=True, timeout=60)
