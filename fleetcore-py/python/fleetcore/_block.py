"""Waiting, for threads."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ._fleetcore import Op


def do(op: Op) -> Any:
    """Does it, without the GIL."""
    return op.wait()
