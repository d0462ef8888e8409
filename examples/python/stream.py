"""Watch output live with asyncio, leave, and come back at the same byte."""

import asyncio

import fleetcore


async def main() -> None:
    script = "for i in 1 2 3 4 5; do echo line $i; sleep 0.1; done"
    command = await fleetcore.Fleet.local().spawn("local", ["sh", "-c", script])
    position = 0
    # Leaving the block ends the command if it still runs.
    async with command:
        async for offset, channel, data in command.stream():
            position = offset + len(data)
            print(channel, data)
            if position >= 14:
                break
        async for offset, channel, data in command.stream(position):
            print("resumed at", offset, data)
        print("exit code", await command.wait())


asyncio.run(main())
