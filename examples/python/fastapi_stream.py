"""A small web service that streams a command to the browser while it runs; closing the page ends the command.

    pip install fastapi uvicorn
    uvicorn fastapi_stream:app
    curl -N 'http://127.0.0.1:8000/ping?host=localhost'
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated

from fastapi import FastAPI, HTTPException, Query, Request
from fastapi.responses import HTMLResponse, StreamingResponse

from fleetcore import NotFoundError, aio

PAGE = """<!doctype html><title>ping</title><pre id=out></pre><script>
new EventSource("/ping?events=1").onmessage = e => out.textContent += e.data + "\\n";
</script>"""


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    # Leaving the block ends whatever still runs.
    async with aio.Fleet.local() as fleet:
        app.state.fleet = fleet
        yield


app = FastAPI(lifespan=lifespan)


@app.get("/")
async def page() -> HTMLResponse:
    return HTMLResponse(PAGE)


@app.get("/ping")
async def ping(
    request: Request,
    host: Annotated[str, Query(pattern=r"^[a-zA-Z0-9][a-zA-Z0-9.-]*$")] = "localhost",
    events: bool = False,
) -> StreamingResponse:
    fleet: aio.Fleet = request.app.state.fleet
    try:
        stream = await fleet.stream("local", ["ping", "-c", "10", host], merge_stderr=True)
    except NotFoundError as e:
        raise HTTPException(501, "there is no ping here") from e

    async def body() -> AsyncIterator[str]:
        async with stream:
            async for line in stream.lines():
                yield f"data: {line}\n\n" if events else f"{line}\n"

    return StreamingResponse(body(), media_type="text/event-stream" if events else "text/plain")
