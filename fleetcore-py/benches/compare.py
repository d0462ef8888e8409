"""Compares with Rust and with the standard library, in one run on one machine; prints ratios against their limits.

    scripts/bench-python            builds the wheel and the Rust side for release, then runs this
    python benches/compare.py [--quick] [--rust PATH]

| | measured | against | limit |
|---|---|---|---|
| run | `Fleet.run("local", ["true"])` | the same through the Rust API (examples/rust_run.rs) | 1.15x its time |
| run | the same | `subprocess.run(["true"])` | 1.05x its time |
| stream | 1 GB of a command's output into Python, asyncio | `asyncio.create_subprocess_exec` + `stdout.read()` | 5x as fast |
| | the same | the same with `read(65536)`, piece by piece | none: both are about as fast as a pipe is |
| many | 1000 commands at once from one event loop | its threads | no thread each |
| import | `import fleetcore` in a fresh interpreter, compiled, files in the cache | an interpreter that imports nothing | 30 ms |

Pairs are measured in turns, so that what else the machine does hits all alike; medians are compared. Exit status 1 when
something misses its limit.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable

import fleetcore
from fleetcore import aio

#: What `asyncio.StreamReader` is asked for at a time: 64 KiB is how much it takes from the pipe, more changes nothing.
PIECE = 1 << 16

missed: list[str] = []


def say(name: str, ours: float, floor: float, unit: str, ratio: float, limit: str, kept: bool) -> None:
    print(f"{name:<34}{ours:10.2f} {unit:<5}{floor:10.2f} {unit:<5}{ratio:7.2f}x   {limit:<14}{'' if kept else 'MISSED'}")
    if not kept:
        missed.append(name)


def timed(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


class Rust:
    """The Rust side: runs `true` when asked."""

    def __init__(self, path: str) -> None:
        self._process = subprocess.Popen([path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def __call__(self, n: int) -> list[float]:
        assert self._process.stdin is not None and self._process.stdout is not None
        print(n, file=self._process.stdin, flush=True)
        return [int(ns) / 1e9 for ns in self._process.stdout.readline().split()]

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


def run(rust: Rust | None, rounds: int) -> None:
    fleet = fleetcore.Fleet.local()

    def ours() -> object:
        return fleet.run("local", ["true"])

    def floor() -> object:
        return subprocess.run(["true"])

    times: list[list[float]] = [[], [], []]
    ours(), floor(), rust and rust(1)
    for _ in range(rounds):
        # Ten of each in turn: what follows another kind finds its caches cold.
        times[0] += [timed(ours) for _ in range(10)]
        times[1] += [timed(floor) for _ in range(10)]
        times[2] += rust(10) if rust else []
    mine, theirs = (statistics.median(t) * 1e3 for t in times[:2])
    if rust:
        bare = statistics.median(times[2]) * 1e3
        say("run / the same in Rust", mine, bare, "ms", mine / bare, "<= 1.15", mine / bare <= 1.15)
    say("run / subprocess.run", mine, theirs, "ms", mine / theirs, "<= 1.05", mine / theirs <= 1.05)


def source(length: int) -> list[str]:
    """Writes that much, faster than anybody reads it: `head` would be the brake, it writes 4 KiB at a time."""
    return ["dd", "if=/dev/zero", "bs=1M", f"count={length >> 20}", "status=none"]


async def stream(length: int) -> None:
    got = 0
    async with aio.Fleet.local().stream("local", source(length)) as output:
        async for chunk in output:
            got += len(chunk.data)
    assert got == length, got


def stream_floor(piece: int) -> Callable[[int], Awaitable[None]]:
    async def read(length: int) -> None:
        process = await asyncio.create_subprocess_exec(*source(length), stdout=subprocess.PIPE)
        assert process.stdout is not None
        got = 0
        while data := await process.stdout.read(piece):
            got += len(data)
        await process.wait()
        assert got == length, got

    return read


def rates(length: int, rounds: int) -> None:
    def rate(of: Callable[[int], Awaitable[None]]) -> float:
        async def main() -> None:
            await of(length)

        return length / timed(lambda: asyncio.run(main())) / 1e6

    all_of_it, pieces = stream_floor(-1), stream_floor(PIECE)
    triples = [(rate(stream), rate(all_of_it), rate(pieces)) for _ in range(rounds)]
    mine, whole, parts = (statistics.median(t[n] for t in triples) for n in range(3))
    say(f"stream of {length >> 20} MiB / read()", mine, whole, "MB/s", mine / whole, ">= 5", mine / whole >= 5)
    say("  in pieces / read(64 KiB)", mine, parts, "MB/s", mine / parts, "", True)


def threads() -> int:
    return len(os.listdir("/proc/self/task"))


async def many(n: int) -> int:
    """All of them at once: each waits for its input until all are there."""
    most = 0
    async with aio.Fleet.local() as fleet:
        tasks = [asyncio.create_task(fleet.run("local", ["sleep", "1000"])) for _ in range(n)]
        while len([c for c in await fleet.commands(limit=n) if c.state == "running"]) < n:
            await asyncio.sleep(0.01)
        most = threads()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    return most


async def finish(n: int) -> None:
    fleet = aio.Fleet.local()
    results = await asyncio.gather(*(fleet.run("local", ["true"]) for _ in range(n)))
    assert all(r.ok for r in results)


async def finish_floor(n: int) -> None:
    async def one() -> None:
        process = await asyncio.create_subprocess_exec("true", stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        await process.communicate()

    await asyncio.gather(*(one() for _ in range(n)))


def loads(rounds: int) -> None:
    bare = [sys.executable, "-c", "pass"]
    ours = [sys.executable, "-c", "import fleetcore"]
    env = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}

    def start(argv: list[str]) -> float:
        return timed(lambda: subprocess.run(argv, env=env, check=True))

    start(ours), start(bare)
    pairs = [(start(ours), start(bare)) for _ in range(rounds)]
    mine, theirs = (statistics.median(p[n] for p in pairs) * 1e3 for n in (0, 1))
    extra = statistics.median(a - b for a, b in pairs) * 1e3
    say("import fleetcore / python -c pass", mine, theirs, "ms", mine / theirs, f"+{extra:.1f} <= 30 ms", extra <= 30)


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true", help="a tenth of everything")
    parser.add_argument("--rust", help="the built examples/rust_run.rs")
    args = parser.parse_args()
    print(f"{'':<34}{'ours':>10} {'':<5}{'other':>10} {'':<5}{'':>8}   limit")
    rust = Rust(args.rust) if args.rust else None
    run(rust, 10 if args.quick else 50)
    if rust:
        rust.close()
    rates((100 if args.quick else 1000) << 20, 3)
    n = 200 if args.quick else 1000
    pairs = [(timed(lambda: asyncio.run(finish(n))), timed(lambda: asyncio.run(finish_floor(n)))) for _ in range(3)]
    mine, theirs = (statistics.median(p[i] for p in pairs) * 1e3 for i in (0, 1))
    say(f"{n} at once / asyncio", mine, theirs, "ms", mine / theirs, "", True)
    most = asyncio.run(many(n))
    say(f"threads while {n} run", most, n, "", most / n, "<= 0.05", most <= n * 0.05)
    loads(10 if args.quick else 30)
    if missed:
        print("MISSED:", ", ".join(missed))
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
