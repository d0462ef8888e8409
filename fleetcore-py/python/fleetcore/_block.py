"""Waiting, for threads."""

from __future__ import annotations

from typing import Any

from ._fleetcore import Op


def do(op: Op) -> Any:
    """Does it, without the GIL."""
    return op.wait()
