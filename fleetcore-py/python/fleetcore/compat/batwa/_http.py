"""As much of HTTP as calls of agents need: one request, one answer, no proxies, no redirects."""

from __future__ import annotations

import asyncio
import json
import ssl
from typing import Any
from urllib.parse import urlsplit

#: Longer answers are refused: lists of machines are kilobytes.
MAX_BYTES = 64 << 20
#: Seconds for the connection alone.
CONNECT = 5.0


class HTTPError(Exception):
    """The call failed."""


class StatusError(HTTPError):
    """The agent refused; the text is what it said."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


async def _connect(url: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter, str, str]:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise HTTPError(f"not the address of an agent: {url}")
    tls = ssl.create_default_context() if parts.scheme == "https" else None
    port = parts.port or (443 if tls else 80)
    opening = asyncio.open_connection(parts.hostname, port, ssl=tls, limit=1 << 20)
    try:
        reader, writer = await asyncio.wait_for(opening, CONNECT)
    except TimeoutError:
        raise HTTPError("the agent does not accept connections") from None
    path = parts.path + (f"?{parts.query}" if parts.query else "")
    return reader, writer, parts.netloc.rpartition("@")[2], path or "/"


async def _read(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    status_line = (await reader.readline()).decode("latin-1").split(None, 2)
    if len(status_line) < 2 or not status_line[0].startswith("HTTP/1.") or not status_line[1].isdigit():
        raise HTTPError("the agent does not speak HTTP")
    headers: dict[str, str] = {}
    while (line := (await reader.readline()).decode("latin-1").strip()) and len(headers) < 200:
        name, _, value = line.partition(":")
        headers[name.strip().lower()] = value.strip()
    body = bytearray()
    if "chunked" in headers.get("transfer-encoding", "").lower():
        while size := int((await reader.readline()).split(b";")[0], 16):
            if len(body) + size > MAX_BYTES:
                raise HTTPError("the agent's answer is too long")
            body += await reader.readexactly(size)
            await reader.readline()
    elif "content-length" in headers:
        length = int(headers["content-length"])
        if length > MAX_BYTES:
            raise HTTPError("the agent's answer is too long")
        body += await reader.readexactly(length)
    else:
        while piece := await reader.read(1 << 16):
            body += piece
            if len(body) > MAX_BYTES:
                raise HTTPError("the agent's answer is too long")
    return int(status_line[1]), bytes(body)


def _said(status: int, body: bytes) -> str:
    """What the agent says about its failure, never nothing."""
    try:
        detail = json.loads(body)["detail"]
        text = detail if isinstance(detail, str) else json.dumps(detail)
    except (ValueError, KeyError, TypeError):
        text = ""
    # The original agent wraps its own errors: "500: start failed: ...".
    if text[:3].isdigit() and text[3:5] == ": ":
        text = text[5:]
    return text or f"the agent answered with status {status}"


async def call(
    method: str, url: str, headers: dict[str, str], body: object = None, *, timeout: float
) -> Any:
    """One call; gives the JSON of the answer. Raises `TimeoutError`, `StatusError`, `HTTPError`."""
    try:
        return await asyncio.wait_for(_call(method, url, headers, body), timeout)
    except (OSError, asyncio.IncompleteReadError, ValueError, asyncio.LimitOverrunError) as e:
        if isinstance(e, TimeoutError):
            raise
        raise HTTPError(str(e) or "the agent broke off") from e


async def _call(method: str, url: str, headers: dict[str, str], body: object) -> Any:
    reader, writer, host, path = await _connect(url)
    try:
        data = b"" if body is None else json.dumps(body).encode()
        head = {"Host": host, "Connection": "close", "Content-Length": str(len(data)), **headers}
        lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in head.items())]
        if any("\r" in line or "\n" in line for line in lines):
            raise HTTPError("a line break in a header or address")
        writer.write("\r\n".join([*lines, "", ""]).encode("latin-1") + data)
        await writer.drain()
        status, answer = await _read(reader)
    finally:
        writer.close()
    if not 200 <= status < 300:
        raise StatusError(status, _said(status, answer))
    try:
        return json.loads(answer)
    except ValueError as e:
        raise HTTPError("the agent sent an invalid reply") from e
