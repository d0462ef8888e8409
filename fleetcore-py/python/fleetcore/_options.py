"""Arguments, checked."""

from __future__ import annotations

from .types import Machine, Target

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ._typing import TargetLike


def name(target: TargetLike) -> str:
    """The name of a target."""
    if isinstance(target, str):
        return target
    if isinstance(target, (Target, Machine)):
        return target.target
    raise TypeError(f"target must be str, Target or Machine, not {type(target).__name__}")


def names(targets: object) -> list[str]:
    """Names of many."""
    if isinstance(targets, (str, bytes)) or not hasattr(targets, "__iter__"):
        raise TypeError(f"targets must be a sequence of targets, not {type(targets).__name__}")
    return [name(t) for t in targets]


def dumps(value: object) -> str:
    """As JSON."""
    import json

    return json.dumps(value)


def loads(text: str) -> Any:
    """Out of JSON; ``None`` when it is none."""
    import json

    try:
        return json.loads(text)
    except ValueError:
        return None
