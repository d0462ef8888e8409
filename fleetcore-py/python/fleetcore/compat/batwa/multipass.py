"""``app.multipass``: multipass on this host, blocking."""

from __future__ import annotations

from typing import Dict, List, Optional

from . import _multipass

__all__ = ["get_vm_ip", "run_multipass_command"]


def run_multipass_command(args: List[str]) -> Dict[str, object]:
    """Runs ``multipass ARGS`` and waits: ``{"success", "output", "error"}``. No time limit. `ValueError` for a NUL
    byte, `TypeError` for what is not a string."""
    return _multipass.run(args)


def get_vm_ip(vm_name: str) -> Optional[str]:
    """The first address of a machine, or ``None`` whatever is the matter."""
    if _multipass.wrong(vm_name) is not None:
        return None
    data, problem = _multipass.parsed(_multipass.run(["info", vm_name, "--format", "json"]))
    if problem is not None:
        return None
    try:
        addresses = data["info"][vm_name]["ipv4"]
        return str(addresses[0]) if addresses else None
    except (KeyError, TypeError, IndexError):
        return None
