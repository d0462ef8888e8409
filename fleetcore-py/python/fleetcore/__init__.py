"""Run commands, open terminals and move files on every machine you have.

>>> import fleetcore
>>> fleet = fleetcore.Fleet.local()
>>> fleet.run("local", ["echo", "hello"]).text
'hello\\n'

`Fleet.connect` gives the same for all targets of a server; `fleetcore.aio` has the same names for asyncio.
"""

from __future__ import annotations

from ._fleetcore import __version__
from ._sync import Files, Fleet, Machines, Output, Session, Stream, Tunnel
from .errors import (
    AccessDeniedError,
    AlreadyExistsError,
    AuthenticationError,
    BusyError,
    CancelledError,
    CommandFailedError,
    ConflictError,
    DataLossError,
    FleetError,
    FleetTimeoutError,
    InvalidInputError,
    InvalidStateError,
    NotFoundError,
    RateLimitedError,
    UnavailableError,
    UnsupportedError,
)
from .types import (
    Agent,
    Chunk,
    CommandInfo,
    Exit,
    FanOutResult,
    FileInfo,
    JoinCode,
    Machine,
    MachineTable,
    Progress,
    Provider,
    Result,
    Screen,
    Table,
    Target,
    Turn,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from . import aio as aio
    from ._typing import FanOutOptions, OnProgress, Options, TargetLike

__all__ = [
    "AccessDeniedError",
    "Agent",
    "AlreadyExistsError",
    "AuthenticationError",
    "BusyError",
    "CancelledError",
    "Chunk",
    "CommandFailedError",
    "CommandInfo",
    "ConflictError",
    "DataLossError",
    "Exit",
    "FanOutOptions",
    "FanOutResult",
    "FileInfo",
    "Files",
    "Fleet",
    "FleetError",
    "FleetTimeoutError",
    "InvalidInputError",
    "InvalidStateError",
    "JoinCode",
    "Machine",
    "MachineTable",
    "Machines",
    "NotFoundError",
    "OnProgress",
    "Options",
    "Output",
    "Progress",
    "Provider",
    "RateLimitedError",
    "Result",
    "Screen",
    "Session",
    "Stream",
    "Table",
    "Target",
    "TargetLike",
    "Tunnel",
    "Turn",
    "UnavailableError",
    "UnsupportedError",
    "__version__",
]


def __getattr__(name: str) -> Any:
    # What they import takes longer to import than all of this.
    if name == "aio":
        from importlib import import_module

        return import_module(".aio", __name__)
    if name in ("FanOutOptions", "OnProgress", "Options", "TargetLike"):
        from . import _typing

        value = globals()[name] = getattr(_typing, name)
        return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
