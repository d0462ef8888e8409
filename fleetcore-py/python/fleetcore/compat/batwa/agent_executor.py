"""``agent.agent_executor``: multipass at an agent, blocking, with the agent's limit of five minutes."""

from __future__ import annotations

import logging
from typing import Any, Dict, List

from . import _multipass

__all__ = ["AgentExecutor", "logger"]

logger = logging.getLogger(__name__)

#: Seconds.
LIMIT = 300.0


class AgentExecutor:
    """Machines of this host."""

    def run_multipass_command(self, args: List[str]) -> Dict[str, Any]:
        """Runs ``multipass ARGS``: ``{"success", "output", "error"}``."""
        return _multipass.run(args, LIMIT)

    def _data(self, args: List[str]) -> Dict[str, Any]:
        data, problem = _multipass.parsed(self.run_multipass_command(args))
        return data if problem is None else {"error": problem}

    def _does(self, name: str, args: List[str]) -> Dict[str, Any]:
        problem = _multipass.wrong(name)
        if problem is not None:
            return {"success": False, "message": problem}
        return _multipass.message(self.run_multipass_command(args))

    def list_vms(self) -> Dict[str, Any]:
        """multipass's list, or ``{"error": text}``."""
        return self._data(["list", "--format", "json"])

    def get_vm_info(self, vm_name: str) -> Dict[str, Any]:
        """multipass's facts about one machine, or ``{"error": text}``."""
        problem = _multipass.wrong(vm_name)
        return {"error": problem} if problem is not None else self._data(["info", vm_name, "--format", "json"])

    def create_vm(self, name: str, cpus: int, memory: str, disk: str, image: str) -> Dict[str, Any]:
        """Makes a machine: ``success`` and ``message``."""
        problem = _multipass.wrong(name, image, cpus, memory=memory, disk=disk)
        if problem is not None:
            return {"success": False, "message": problem}
        return self._does(name, _multipass.launch(name, cpus, memory, disk, image))

    def start_vm(self, vm_name: str) -> Dict[str, Any]:
        """Starts a machine."""
        return self._does(vm_name, ["start", vm_name])

    def stop_vm(self, vm_name: str) -> Dict[str, Any]:
        """Stops a machine."""
        return self._does(vm_name, ["stop", vm_name])

    def delete_vm(self, vm_name: str) -> Dict[str, Any]:
        """Deletes a machine for good, and no other."""
        got = self._does(vm_name, ["delete", "--purge", vm_name])
        return {"success": True, "message": _multipass.DELETED} if got["success"] else got

    def execute_shell_command(self, vm_name: str, command: str) -> Dict[str, Any]:
        """Runs a script in a machine: ``success``, ``stdout``, ``stderr``, ``return_code`` (0 or 1)."""
        problem = _multipass.wrong(vm_name)
        if problem is not None:
            return {"success": False, "stdout": "", "stderr": problem, "return_code": 1}
        got = self.run_multipass_command(["exec", vm_name, "--", "sh", "-c", command])
        code = 0 if got["success"] else 1
        return {"success": got["success"], "stdout": got["output"], "stderr": got["error"], "return_code": code}
