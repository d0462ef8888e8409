"""The same for asyncio: what is different there is cancellation."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from pathlib import Path

import pytest
from conftest import Place, patiently
from test_exec import gone

import fleetcore
from fleetcore import aio


def opened(place: Place) -> aio.Fleet:
    if place.url is not None:
        return aio.Fleet.connect(place.url, place.token)
    return patiently(lambda: aio.Fleet.local(data_dir=place.data_dir, ssh=place.ssh or False))


def test_run(place: Place) -> None:
    async def main() -> None:
        async with opened(place) as fleet:
            result = await fleet.run(place.target, ["sh", "-c", "cat; exit 3"], stdin=b"hello")
            assert (result.stdout, result.exit_code) == (b"hello", 3)
            with pytest.raises(fleetcore.CommandFailedError):
                await fleet.run(place.target, ["false"], check=True)
            with pytest.raises(fleetcore.NotFoundError):
                await fleet.run(place.target, ["/no/such/program"])
            with pytest.raises(TypeError):
                await fleet.run(place.target, "true")
            with pytest.raises(fleetcore.InvalidInputError):
                fleet.stream(place.target, [])

    asyncio.run(main())


def test_gather(place: Place) -> None:
    async def main() -> list[str]:
        async with opened(place) as fleet:
            runs = (fleet.run(place.target, ["echo", str(n)], check=True) for n in range(20))
            return [r.text for r in await asyncio.gather(*runs)]

    assert asyncio.run(main()) == [f"{n}\n" for n in range(20)]


def test_stream_is_exact_although_waits_are_cancelled(place: Place) -> None:
    async def main() -> bytes:
        got = b""
        async with opened(place) as fleet:
            async with fleet.stream(place.target, ["seq", "1", "20000"]) as stream:
                while True:
                    try:
                        chunk = await asyncio.wait_for(anext(stream), 0.0005)
                    except TimeoutError:
                        continue
                    except StopAsyncIteration:
                        break
                    assert (chunk.offset, chunk.channel, chunk.missing) == (len(got), "stdout", 0)
                    got += chunk.data
        return got

    assert asyncio.run(main()) == b"".join(b"%d\n" % n for n in range(1, 20001))


def test_cancelling_a_task_leaves_no_process(place: Place, tmp_path: Path) -> None:
    async def main() -> int:
        async with opened(place) as fleet:
            script = 'echo $$ > "$0"; exec sleep 1000'
            name = f"/tmp/py-{os.getpid()}-{time.monotonic_ns()}"
            files = fleet.files(place.target)
            task = asyncio.create_task(fleet.run(place.target, ["sh", "-c", script, name]))
            while True:
                try:
                    if pid := await files.read(name):
                        break
                except fleetcore.NotFoundError:
                    pass
                await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            # Not a moment later: it is gone already.
            left = await fleet.run(place.target, ["sh", "-c", 'kill -0 "$1"', "sh", pid.decode().strip()])
            await files.remove(name)
            assert not left.ok
        return int(pid)

    asyncio.run(main())


def test_cancelling_at_any_time(place: Place) -> None:
    async def main() -> None:
        async with opened(place) as fleet:
            for n in range(10):
                task = asyncio.create_task(fleet.run(place.target, ["sleep", "1000"]))
                for _ in range(n):
                    await asyncio.sleep(0.001)
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
            assert [c for c in await fleet.commands() if c.state == "running"] == []

    asyncio.run(main())


def test_leaving_the_block_ends_it(place: Place) -> None:
    async def main() -> int:
        async with opened(place) as fleet:
            async with fleet.stream(place.target, ["sh", "-c", "echo $$; exec sleep 1000"]) as stream:
                pid = int((await anext(stream)).text)
            assert stream.exit is not None and stream.exit.reason == "requested"
        return pid

    pid = asyncio.run(main())
    if place.kind == "local":
        assert gone(fleetcore.Fleet.local(), "local", pid)


def test_session_files_and_fan_out(place: Place) -> None:
    async def main() -> None:
        async with opened(place) as fleet:
            async with fleet.session(place.target) as shell:
                assert (await shell.run("cd /tmp && pwd")).text.strip() == "/tmp"
                task = asyncio.create_task(shell.run("sh -c 'echo go; exec sleep 1000'"))
                # A Ctrl-C before the program runs is the shell's, which drops the line.
                seen = b""
                async for chunk in shell.output():
                    seen += chunk.data
                    if b"go\r\n" in seen:
                        break
                turn = await shell.interrupt()
                assert (await task).exit_code == turn.exit_code == 130
            name = f"/tmp/py-{os.getpid()}-{time.monotonic_ns()}"
            files = fleet.files(place.target)
            await files.write(name, b"abc")
            assert [p async for p in files.chunks(name)] == [b"abc"]
            await files.remove(name)
            [result] = await fleet.run_many([place.target], ["echo", "x"])
            assert result.result is not None and result.result.text == "x\n"
            assert place.target in [t.target for t in await fleet.targets()]

    asyncio.run(main())


def test_a_thousand_commands_cost_no_thread_each() -> None:
    async def main() -> int:
        fleet = aio.Fleet.local()
        tasks = [asyncio.create_task(fleet.run("local", ["sleep", "1000"])) for _ in range(300)]
        async with fleet:
            while len(await fleet.commands(limit=1000)) < 300:
                await asyncio.sleep(0.01)
            threads = len(os.listdir("/proc/self/task"))
        results = await asyncio.gather(*tasks)
        assert all(r.reason == "shutdown" for r in results)
        return threads

    assert asyncio.run(main()) < 100


def test_loops_come_and_go() -> None:
    fleet = aio.Fleet.local()

    async def one() -> str:
        return (await fleet.run("local", ["echo", "x"])).text

    assert [asyncio.run(one()) for _ in range(20)] == ["x\n"] * 20
    texts: list[str] = []
    threads = [threading.Thread(target=lambda: texts.append(asyncio.run(one()))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert texts == ["x\n"] * 4


def test_the_loop_goes_on_while_something_waits() -> None:
    async def main() -> int:
        turns = 0
        fleet = aio.Fleet.local()
        task = asyncio.create_task(fleet.run("local", ["sleep", "0.2"]))
        while not task.done():
            await asyncio.sleep(0)
            turns += 1
        return turns

    assert asyncio.run(main()) > 100


def test_two_readers_of_one_stream_are_refused() -> None:
    async def main() -> None:
        async with aio.Fleet.local().stream("local", ["sleep", "1000"]) as stream:
            first = asyncio.create_task(anext(stream))
            await asyncio.sleep(0)
            with pytest.raises(RuntimeError, match="reading"):
                await anext(stream)
            first.cancel()

    asyncio.run(main())
