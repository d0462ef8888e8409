"""``app.remote_executor``: one interface to the machines of this host and of agents.

Local calls do not hold up the event loop, as the original's do. A machine is deleted with ``delete --purge``, which
leaves other deleted machines alone.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from typing import Any, Dict, List, Optional

from . import _multipass
from .agents import agent_registry
from .communication import AgentCommunicator, communicator

__all__ = [
    "ExecutorFactory",
    "LocalVMExecutor",
    "RemoteVMExecutor",
    "VMExecutor",
    "executor_factory",
    "get_executor_factory",
    "logger",
]

logger = logging.getLogger(__name__)


class VMExecutor(ABC):
    """Machines of one host. Answers are ``{"success": True, ...}`` or ``{"success": False, ...}``, never exceptions."""

    @abstractmethod
    async def list_vms(self) -> Dict[str, Any]:
        """``data``: multipass's list."""

    @abstractmethod
    async def get_vm_info(self, vm_name: str) -> Dict[str, Any]:
        """``data``: multipass's facts about one."""

    @abstractmethod
    async def create_vm(self, name: str, cpus: int, memory: str, disk: str, image: str) -> Dict[str, Any]:
        """Makes one: ``message``."""

    @abstractmethod
    async def start_vm(self, vm_name: str) -> Dict[str, Any]:
        """Starts one: ``message``."""

    @abstractmethod
    async def stop_vm(self, vm_name: str) -> Dict[str, Any]:
        """Stops one: ``message``."""

    @abstractmethod
    async def delete_vm(self, vm_name: str) -> Dict[str, Any]:
        """Deletes one for good: ``message``."""

    @abstractmethod
    def get_location_info(self) -> Dict[str, Any]:
        """``type``, ``agent_id``, ``agent_hostname``."""


class LocalVMExecutor(VMExecutor):
    """Machines of this host."""

    async def _data(self, args: List[str]) -> Dict[str, Any]:
        data, problem = _multipass.parsed(await _multipass.run_here(args))
        return {"success": True, "data": data} if problem is None else {"success": False, "error": problem}

    async def _does(self, args: List[str], name: str) -> Dict[str, Any]:
        problem = _multipass.wrong(name)
        if problem is not None:
            return {"success": False, "message": problem}
        return _multipass.message(await _multipass.run_here(args))

    async def list_vms(self) -> Dict[str, Any]:
        return await self._data(["list", "--format", "json"])

    async def get_vm_info(self, vm_name: str) -> Dict[str, Any]:
        problem = _multipass.wrong(vm_name)
        if problem is not None:
            return {"success": False, "error": problem}
        return await self._data(["info", vm_name, "--format", "json"])

    async def create_vm(self, name: str, cpus: int, memory: str, disk: str, image: str) -> Dict[str, Any]:
        problem = _multipass.wrong(name, image, cpus, memory=memory, disk=disk)
        if problem is not None:
            return {"success": False, "message": problem}
        return await self._does(_multipass.launch(name, cpus, memory, disk, image), name)

    async def start_vm(self, vm_name: str) -> Dict[str, Any]:
        return await self._does(["start", vm_name], vm_name)

    async def stop_vm(self, vm_name: str) -> Dict[str, Any]:
        return await self._does(["stop", vm_name], vm_name)

    async def delete_vm(self, vm_name: str) -> Dict[str, Any]:
        got = await self._does(["delete", "--purge", vm_name], vm_name)
        return {"success": True, "message": _multipass.DELETED} if got["success"] else got

    def get_location_info(self) -> Dict[str, Any]:
        return {"type": "local", "agent_id": None, "agent_hostname": None}


class RemoteVMExecutor(VMExecutor):
    """Machines of an agent's host."""

    def __init__(self, agent_id: str, communicator: AgentCommunicator) -> None:
        self.agent_id = agent_id
        self.communicator = communicator

    @staticmethod
    def _data(answer: Dict[str, Any]) -> Dict[str, Any]:
        if "error" in answer:
            return {"success": False, "error": answer["error"]}
        return {"success": True, "data": answer}

    @staticmethod
    def _done(answer: Dict[str, Any]) -> Dict[str, Any]:
        return {"success": False, "message": answer["error"]} if "error" in answer else answer

    async def list_vms(self) -> Dict[str, Any]:
        return self._data(await self.communicator.get_vm_list(self.agent_id))

    async def get_vm_info(self, vm_name: str) -> Dict[str, Any]:
        return self._data(await self.communicator.get_vm_info(self.agent_id, vm_name))

    async def create_vm(self, name: str, cpus: int, memory: str, disk: str, image: str) -> Dict[str, Any]:
        return self._done(await self.communicator.create_vm(self.agent_id, name, cpus, memory, disk, image))

    async def start_vm(self, vm_name: str) -> Dict[str, Any]:
        return self._done(await self.communicator.vm_action(self.agent_id, vm_name, "start"))

    async def stop_vm(self, vm_name: str) -> Dict[str, Any]:
        return self._done(await self.communicator.vm_action(self.agent_id, vm_name, "stop"))

    async def delete_vm(self, vm_name: str) -> Dict[str, Any]:
        return self._done(await self.communicator.vm_action(self.agent_id, vm_name, "delete"))

    def get_location_info(self) -> Dict[str, Any]:
        agent = agent_registry.get_agent(self.agent_id)
        host = "unknown" if agent is None else agent.hostname
        return {"type": "remote", "agent_id": self.agent_id, "agent_hostname": host}


class ExecutorFactory:
    """Chooses the executor."""

    def __init__(self, communicator: AgentCommunicator) -> None:
        self.communicator = communicator

    def get_executor(self, agent_id: Optional[str] = None) -> VMExecutor:
        """This host's for ``None``, else the agent's, known or not."""
        return LocalVMExecutor() if agent_id is None else RemoteVMExecutor(agent_id, self.communicator)


executor_factory: Optional[ExecutorFactory] = None


def get_executor_factory() -> ExecutorFactory:
    """The one everybody uses."""
    global executor_factory
    if executor_factory is None:
        executor_factory = ExecutorFactory(communicator)
    return executor_factory
