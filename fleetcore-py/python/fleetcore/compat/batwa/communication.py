"""``app.communication``: calls of agents.

An agent is reached over HTTP at its ``api_url``, as ever; or, with an ``api_url`` of ``fleet:TARGET``, through the fleet:
multipass runs on that target then and no agent of Batwa is needed there. `use_fleet` says which fleet.

Safer than the original: names are encoded in addresses; redirects are not followed, so a key stays where it belongs; an
error has the agent's own text; slow operations get the time they need.
"""

from __future__ import annotations

import logging
from types import TracebackType
from typing import Any, Dict, List, Optional, Type
from urllib.parse import quote

from fleetcore import aio

from . import _http, _multipass
from .agents import agent_registry
from .models import AgentInfo, RemoteCommandResponse

__all__ = ["AgentCommunicator", "agent_registry", "communicator", "logger", "use_fleet"]

logger = logging.getLogger(__name__)

#: What an ``api_url`` begins with that names a target of the fleet.
FLEET = "fleet:"
#: Seconds an action may take at least, whatever the time limit of the others: a launch downloads an image.
SLOW = {"create": 900.0, "start": 300.0, "stop": 120.0, "delete": 120.0}
HEALTH = 5.0


def use_fleet(fleet: aio.Fleet) -> None:
    """Looks for the targets of ``fleet:TARGET`` in this fleet; before that, in `fleetcore.aio.Fleet.local`."""
    _multipass.use(fleet)


class AgentCommunicator:
    """Calls agents of `agent_registry`. No method raises: errors are values."""

    def __init__(self, timeout: int = 30) -> None:
        self.timeout = timeout

    async def __aenter__(self) -> AgentCommunicator:
        return self

    async def __aexit__(
        self,
        exc_type: Optional[Type[BaseException]],
        exc_val: Optional[BaseException],
        exc_tb: Optional[TracebackType],
    ) -> None:
        return None

    def _get_headers(self, agent_id: str) -> Dict[str, str]:
        headers = {"Content-Type": "application/json"}
        key = agent_registry.get_agent_api_key(agent_id)
        if key:
            headers["X-API-Key"] = key
        return headers

    async def _call(
        self, agent: AgentInfo, method: str, path: str, body: object = None, *, timeout: float | None = None
    ) -> Any:
        url = agent.api_url.rstrip("/") + path
        limit = self.timeout if timeout is None else timeout
        return await _http.call(method, url, self._get_headers(agent.agent_id), body, timeout=limit)

    async def _ask(
        self, agent_id: str, method: str, path: str, body: object = None, *, timeout: float | None = None
    ) -> Dict[str, Any]:
        agent = agent_registry.get_agent(agent_id)
        if agent is None:
            return {"error": f"Agent not found: {agent_id}"}
        try:
            answer = await self._call(agent, method, path, body, timeout=timeout)
        except TimeoutError:
            return {"error": f"Request timeout to agent {agent_id}"}
        except _http.HTTPError as e:
            logger.warning("agent %s: %s", agent_id, e)
            return {"error": str(e)}
        return answer if isinstance(answer, dict) else {"error": f"Agent '{agent_id}' sent an invalid reply"}

    def _target(self, agent_id: str) -> str | None:
        agent = agent_registry.get_agent(agent_id)
        if agent is None or not agent.api_url.startswith(FLEET):
            return None
        return agent.api_url.removeprefix(FLEET)

    async def _json(self, target: str, args: List[str]) -> Dict[str, Any]:
        data, problem = _multipass.parsed(await _multipass.run_async(args, target=target))
        return {"error": problem} if problem is not None else data

    async def _does(self, target: str, args: List[str], done: str | None = None) -> Dict[str, Any]:
        got = _multipass.message(await _multipass.run_async(args, target=target))
        if not got["success"]:
            return {"error": got["message"]}
        return got if done is None else {"success": True, "message": done}

    async def execute_command(
        self, agent_id: str, command: str, args: List[str], timeout: Optional[int] = None
    ) -> RemoteCommandResponse:
        """Runs ``multipass ARGS`` at an agent that is online."""

        def broken(text: str) -> RemoteCommandResponse:
            return RemoteCommandResponse(success=False, return_code=-1, error=text)

        agent = agent_registry.get_agent(agent_id)
        if agent is None:
            return broken(f"Agent not found: {agent_id}")
        if agent.status != "online":
            return broken(f"Agent is offline: {agent_id}")
        limit = self.timeout if timeout is None else timeout
        target = self._target(agent_id)
        try:
            if target is not None:
                got = await _multipass.run_async(list(args), target=target, timeout=limit)
                code = 0 if got["success"] else 1
                return RemoteCommandResponse(
                    success=got["success"], stdout=got["output"], stderr=got["error"], return_code=code
                )
            body = {"command": command, "args": args, "timeout": limit}
            answer = await self._call(agent, "POST", "/api/execute", body, timeout=limit)
            return RemoteCommandResponse(**answer)
        except TimeoutError:
            return broken(f"Request timeout to agent {agent_id}")
        except _http.HTTPError as e:
            return broken(f"HTTP error: {e}")
        except Exception as e:
            return broken(f"Unexpected error: {e}")

    async def get_vm_list(self, agent_id: str) -> Dict[str, Any]:
        """multipass's list at an agent, or ``{"error": text}``."""
        target = self._target(agent_id)
        if target is not None:
            return await self._json(target, ["list", "--format", "json"])
        return await self._ask(agent_id, "GET", "/api/vm/list")

    async def get_vm_info(self, agent_id: str, vm_name: str) -> Dict[str, Any]:
        """multipass's facts about a machine at an agent, or ``{"error": text}``."""
        problem = _multipass.wrong(vm_name)
        if problem is not None:
            return {"error": problem}
        target = self._target(agent_id)
        if target is not None:
            return await self._json(target, ["info", vm_name, "--format", "json"])
        return await self._ask(agent_id, "GET", f"/api/vm/info/{quote(vm_name, safe='')}")

    async def create_vm(
        self, agent_id: str, name: str, cpus: int, memory: str, disk: str, image: str
    ) -> Dict[str, Any]:
        """Makes a machine at an agent: its JSON, or ``{"error": text}``."""
        problem = _multipass.wrong(name, image, cpus, memory=memory, disk=disk)
        if problem is not None:
            return {"error": problem}
        target = self._target(agent_id)
        if target is not None:
            return await self._does(target, _multipass.launch(name, cpus, memory, disk, image))
        body = {"name": name, "cpus": cpus, "memory": memory, "disk": disk, "image": image}
        return await self._ask(agent_id, "POST", "/api/vm/create", body, timeout=max(self.timeout, SLOW["create"]))

    async def vm_action(self, agent_id: str, vm_name: str, action: str) -> Dict[str, Any]:
        """``start``, ``stop``, ``delete``, or what else the agent knows: its JSON, or ``{"error": text}``."""
        problem = _multipass.wrong(vm_name)
        if problem is not None:
            return {"error": problem}
        target = self._target(agent_id)
        if target is not None:
            if action in ("start", "stop"):
                return await self._does(target, [action, vm_name])
            if action == "delete":
                return await self._does(target, ["delete", "--purge", vm_name], _multipass.DELETED)
            return {"error": f"unknown action {action!r}: start, stop or delete"}
        limit = max(self.timeout, SLOW.get(action, 0))
        return await self._ask(agent_id, "POST", f"/api/vm/{quote(action, safe='')}", {"name": vm_name}, timeout=limit)

    async def health_check(self, agent_id: str) -> bool:
        """Whether an agent answers."""
        target = self._target(agent_id)
        if target is not None:
            return (await _multipass.run_async(["version"], target=target, timeout=HEALTH))["success"] is True
        return "error" not in await self._ask(agent_id, "GET", "/health", timeout=HEALTH)


communicator = AgentCommunicator()
