"""Waiting, for event loops."""

from __future__ import annotations

from asyncio import AbstractEventLoop, get_running_loop
from collections.abc import AsyncIterator, Coroutine, Generator
from typing import Any, Generic, Protocol, TypeVar
from weakref import WeakKeyDictionary

from ._fleetcore import Mailbox, Op
from .types import Chunk

_boxes: WeakKeyDictionary[AbstractEventLoop, Mailbox] = WeakKeyDictionary()


def _box() -> tuple[AbstractEventLoop, Mailbox]:
    loop = get_running_loop()
    box = _boxes.get(loop)
    if box is None:
        box = _boxes[loop] = Mailbox()
        loop.add_reader(box.fileno(), box.drain)
    return loop, box


async def do(op: Op) -> Any:
    """Does it; cancelling gives it up."""
    loop, box = _box()
    future = loop.create_future()
    token = box.start(op, future)
    try:
        return await future
    except BaseException:
        box.abort(token)
        raise


class _Opened(Protocol):
    async def __aenter__(self) -> Any: ...
    async def __aexit__(self, *raised: object) -> None: ...


_T = TypeVar("_T", bound=_Opened)


class Opening(Generic[_T]):
    """Something about to be opened: ``async with`` it, or ``await`` it and close it yourself."""

    __slots__ = ("_opened", "_opening")

    def __init__(self, opening: Coroutine[Any, Any, _T]) -> None:
        self._opening = opening
        self._opened: _T | None = None

    def __await__(self) -> Generator[Any, Any, _T]:
        return self._opening.__await__()

    async def __aenter__(self) -> _T:
        self._opened = await self._opening
        await self._opened.__aenter__()
        return self._opened

    async def __aexit__(self, *raised: object) -> None:
        if self._opened is not None:
            await self._opened.__aexit__(*raised)

    async def __aiter__(self) -> AsyncIterator[Chunk]:
        async with self as opened:
            async for chunk in opened:  # type: ignore[attr-defined]
                yield chunk
