"""Compares with the standard library, in one run on one machine; prints ratios.

    python benches/compare.py [--quick]

| | measured | floor |
|---|---|---|
| run | `Fleet.run("local", ["true"])` | `subprocess.run(["true"], capture_output=True)` |
| stream | 1 GB of a command's output into Python, asyncio | `asyncio.create_subprocess_exec` + `read(1 MiB)` |
| many | 1000 commands at once from one event loop | the same with `asyncio.create_subprocess_exec` |
| import | `import fleetcore` in a fresh interpreter | an interpreter that imports nothing |

Pairs are measured in turns, so that what else the machine does hits both; medians are compared.
"""

from __future__ import annotations

import asyncio
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

import fleetcore
from fleetcore import aio

QUICK = "--quick" in sys.argv
LENGTH = 100_000_000 if QUICK else 1_000_000_000
SOURCE = ["head", "-c", str(LENGTH), "/dev/zero"]


def timed(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def compare(name: str, ours: Callable[[], object], floor: Callable[[], object], rounds: int) -> None:
    ours(), floor()
    pairs = [(timed(ours), timed(floor)) for _ in range(rounds)]
    mine, theirs = (statistics.median(p[n] for p in pairs) for n in (0, 1))
    print(f"{name:<8} {mine * 1e3:10.2f} ms   floor {theirs * 1e3:10.2f} ms   {theirs / mine:6.2f}x as fast")


async def stream() -> None:
    got = 0
    async with aio.Fleet.local().stream("local", SOURCE) as output:
        async for chunk in output:
            got += len(chunk.data)
    assert got == LENGTH, got


async def stream_floor() -> None:
    process = await asyncio.create_subprocess_exec(*SOURCE, stdout=subprocess.PIPE)
    assert process.stdout is not None
    got = 0
    while piece := await process.stdout.read(1 << 20):
        got += len(piece)
    await process.wait()
    assert got == LENGTH


async def many(n: int) -> None:
    fleet = aio.Fleet.local()
    results = await asyncio.gather(*(fleet.run("local", ["true"]) for _ in range(n)))
    assert all(r.ok for r in results)


async def many_floor(n: int) -> None:
    async def one() -> None:
        process = await asyncio.create_subprocess_exec("true", stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        await process.communicate()

    await asyncio.gather(*(one() for _ in range(n)))


def main() -> None:
    fleet = fleetcore.Fleet.local()
    rounds = 50 if QUICK else 300
    compare(
        "run",
        lambda: fleet.run("local", ["true"]),
        lambda: subprocess.run(["true"], capture_output=True),
        rounds,
    )
    compare("stream", lambda: asyncio.run(stream()), lambda: asyncio.run(stream_floor()), 3 if QUICK else 5)
    n = 200 if QUICK else 1000
    compare("many", lambda: asyncio.run(many(n)), lambda: asyncio.run(many_floor(n)), 3)
    bare = [sys.executable, "-I", "-c", "pass"]
    ours = [sys.executable, "-c", "import fleetcore"]
    times = [(timed(lambda: subprocess.run(ours)), timed(lambda: subprocess.run(bare))) for _ in range(10)]
    print(f"import   {statistics.median(a - b for a, b in times) * 1e3:10.2f} ms   limit      30.00 ms")


if __name__ == "__main__":
    main()
