"""Runs one command on many hosts at once, and prints what came of each as it comes.

    python gather.py 'uname -sr'                         # this host
    FLEETCORE_SERVER=http://127.0.0.1:7070 FLEETCORE_TOKEN=fct_... python gather.py 'uname -sr' '**'
"""

from __future__ import annotations

import asyncio
import os
import sys

from fleetcore import FanOutResult, FleetError, aio


def fleet() -> aio.Fleet:
    """The server the environment names, or this host."""
    server = os.environ.get("FLEETCORE_SERVER")
    return aio.Fleet.connect(server, os.environ.get("FLEETCORE_TOKEN")) if server else aio.Fleet.local()


async def main(script: str, patterns: list[str]) -> int:
    async with fleet() as all_of_them:
        # By hand: each target is a task like any other.
        targets = await all_of_them.targets()
        runs = (all_of_them.run(t, script, shell=True, timeout=30) for t in targets if t.state == "running")
        for result in await asyncio.gather(*runs, return_exceptions=True):
            if isinstance(result, FleetError):
                print(f"could not run: {result}", file=sys.stderr)
            elif isinstance(result, BaseException):
                raise result
            else:
                print(f"{result.target}: {result.text.strip()} ({result.duration * 1e3:.0f} ms)")
        # By the fleet's own fan-out: patterns, batches, and an end when too many fail.
        if patterns:

            def tell(result: FanOutResult) -> None:
                print(f"{result.target}: {result.state}")

            results = await all_of_them.run_many(
                patterns, script, shell=True, parallel=50, max_failures=5, progress=tell
            )
            return 0 if all(r.ok for r in results) else 1
    return 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main(sys.argv[1] if len(sys.argv) > 1 else "uname -sr", sys.argv[2:])))
