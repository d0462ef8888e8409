"""Watches output live with asyncio, leaves, and comes back at the same byte."""

from __future__ import annotations

import asyncio

from fleetcore import aio


async def main() -> None:
    script = "for i in 1 2 3 4 5; do echo line $i; sleep 0.1; done"
    fleet = aio.Fleet.local()
    # Leaving the block ends the command if it still runs.
    async with fleet.stream("local", script, shell=True) as stream:
        async for chunk in stream:
            print(chunk)
            if chunk.end >= 14:
                break
        async for chunk in stream.resume(stream.offset):
            print("resumed at", chunk.offset, chunk.text, end="")
        print("exit code", (await stream.wait()).exit_code)


if __name__ == "__main__":
    asyncio.run(main())
