"""``app.models``: what is sent and kept, as pydantic models with the original's fields and defaults."""

from __future__ import annotations

from datetime import datetime
from typing import Dict, List, Optional

from pydantic import BaseModel

__all__ = [
    "AgentHeartbeat",
    "AgentInfo",
    "AgentRegisterRequest",
    "LoginRequest",
    "RemoteCommandRequest",
    "RemoteCommandResponse",
    "VMActionRequest",
    "VMCreateRequest",
    "VMInfoExtended",
]


class LoginRequest(BaseModel):
    """Who wants in."""

    username: str
    password: str


class VMCreateRequest(BaseModel):
    """A machine to make."""

    name: str
    cpus: Optional[int] = 1
    memory: Optional[str] = "1G"
    disk: Optional[str] = "5G"
    image: Optional[str] = "22.04"
    agent_id: Optional[str] = None


class VMActionRequest(BaseModel):
    """A machine to start, stop or delete."""

    name: str
    agent_id: Optional[str] = None


class AgentRegisterRequest(BaseModel):
    """An agent that presents itself."""

    agent_id: str
    hostname: str
    api_url: str
    api_key: Optional[str] = None
    tags: Optional[Dict[str, str]] = {}


class AgentInfo(BaseModel):
    """An agent that is known. Its fields change while it lives."""

    agent_id: str
    hostname: str
    api_url: str
    #: ``online``, ``offline`` or ``error``.
    status: str
    last_seen: Optional[datetime] = None
    tags: Optional[Dict[str, str]] = {}
    vm_count: Optional[int] = 0


class AgentHeartbeat(BaseModel):
    """An agent's sign of life."""

    agent_id: str
    timestamp: datetime
    status: str
    vm_count: int


class RemoteCommandRequest(BaseModel):
    """A multipass command for an agent."""

    command: str
    args: List[str]
    timeout: Optional[int] = 30


class RemoteCommandResponse(BaseModel):
    """What came of it."""

    success: bool
    stdout: Optional[str] = None
    stderr: Optional[str] = None
    return_code: int
    error: Optional[str] = None


class VMInfoExtended(BaseModel):
    """A machine and where it is."""

    name: str
    state: str
    ipv4: Optional[str] = None
    release: Optional[str] = None
    agent_id: Optional[str] = None
    agent_hostname: Optional[str] = None
