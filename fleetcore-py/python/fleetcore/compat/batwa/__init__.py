"""The modules of Batwa that other programs import, over fleetcore: the same names, signatures and results.

| instead of | import |
|---|---|
| ``app.models`` | ``fleetcore.compat.batwa.models`` (needs pydantic 2, as the original does) |
| ``app.multipass`` | ``fleetcore.compat.batwa.multipass`` |
| ``app.auth`` | ``fleetcore.compat.batwa.auth`` |
| ``app.agents`` | ``fleetcore.compat.batwa.agents`` |
| ``app.communication`` | ``fleetcore.compat.batwa.communication`` |
| ``app.remote_executor`` | ``fleetcore.compat.batwa.remote_executor`` |
| ``agent.agent_executor`` | ``fleetcore.compat.batwa.agent_executor`` |

`install` puts them in the place of the originals, for programs that are not to be touched. What is safer than the
original is said in each module; MIGRATING.md has the list.
"""

from __future__ import annotations

import sys
from importlib import import_module

__all__ = ["MODULES", "install"]

#: The original's name of each module, and its name here.
MODULES = {
    "app.models": "models",
    "app.multipass": "multipass",
    "app.auth": "auth",
    "app.agents": "agents",
    "app.communication": "communication",
    "app.remote_executor": "remote_executor",
    "agent.agent_executor": "agent_executor",
}


def install(*names: str) -> None:
    """Makes ``import app.multipass`` and the like give the modules of this package: those that are named, else all.
    Call it before anything imports the originals: they bind each other's names when they are imported.

    Raises `ValueError` for a name that is not in `MODULES`, `RuntimeError` when the original is there already.
    """
    for name in names or MODULES:
        if name not in MODULES:
            raise ValueError(f"no module here stands for {name!r}: {', '.join(MODULES)}")
        ours = import_module(f"{__name__}.{MODULES[name]}")
        there = sys.modules.get(name)
        if there is not None and there is not ours:
            raise RuntimeError(f"{name} has been imported already: call install() before that")
        sys.modules[name] = ours
        parent, _, child = name.partition(".")
        if parent in sys.modules:
            setattr(sys.modules[parent], child, ours)
