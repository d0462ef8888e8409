"""``app.auth``: sessions of the web page.

There is no user until you add one: the original's ``admin`` with a well-known password is a defect. Passwords are what
the original keeps, plain texts; for more than a transition use the users of a fleetcore server.
"""

from __future__ import annotations

from typing import Dict, Optional

__all__ = ["check_auth", "sessions", "users"]

#: Sessions: id to ``{"username": name}``.
sessions: Dict[str, Dict[str, str]] = {}
#: Users: name to password.
users: Dict[str, str] = {}


def check_auth(session_id: Optional[str]) -> bool:
    """Whether there is such a session."""
    return session_id is not None and session_id in sessions
