"""``app.agents``: the agents that are known.

Safer than the original: ages are measured with this host's clock only, so agents with a wrong clock or another time
format neither flap nor stop the monitor; a key never moves to another address.
"""

from __future__ import annotations

import asyncio
import logging
from datetime import datetime
from typing import Dict, List, Optional

from .models import AgentHeartbeat, AgentInfo, AgentRegisterRequest

__all__ = ["AgentRegistry", "agent_registry", "logger"]

logger = logging.getLogger(__name__)


class AgentRegistry:
    """Agents, in the order in which they came."""

    def __init__(self) -> None:
        self._agents: Dict[str, AgentInfo] = {}
        self._api_keys: Dict[str, str] = {}
        #: Seconds between two looks at their age.
        self._heartbeat_interval: float = 30
        #: Seconds after which a silent agent is offline.
        self._offline_threshold: float = 60
        self._heartbeat_task: Optional[asyncio.Task[None]] = None

    def register_agent(self, request: AgentRegisterRequest) -> AgentInfo:
        """Enters an agent, or enters it anew; gives the object that is kept."""
        before = self._agents.get(request.agent_id)
        if request.api_key:
            self._api_keys[request.agent_id] = request.api_key
        elif before is not None and before.api_url != request.api_url:
            self._api_keys.pop(request.agent_id, None)
        agent = AgentInfo(
            agent_id=request.agent_id,
            hostname=request.hostname,
            api_url=request.api_url,
            status="online",
            last_seen=datetime.now(),
            tags=request.tags or {},
            vm_count=0 if before is None else before.vm_count,
        )
        self._agents[request.agent_id] = agent
        logger.info("agent %s registered", request.agent_id)
        return agent

    def unregister_agent(self, agent_id: str) -> bool:
        """Forgets an agent; whether there was one."""
        self._api_keys.pop(agent_id, None)
        return self._agents.pop(agent_id, None) is not None

    def get_agent(self, agent_id: str) -> Optional[AgentInfo]:
        """One agent."""
        return self._agents.get(agent_id)

    def get_all_agents(self) -> List[AgentInfo]:
        """All agents."""
        return list(self._agents.values())

    def get_online_agents(self) -> List[AgentInfo]:
        """Agents that are online."""
        return [a for a in self._agents.values() if a.status == "online"]

    def get_agent_api_key(self, agent_id: str) -> Optional[str]:
        """The key an agent wants to see."""
        return self._api_keys.get(agent_id)

    def update_heartbeat(self, heartbeat: AgentHeartbeat) -> None:
        """Notes a sign of life; one of an unknown agent is nothing."""
        agent = self._agents.get(heartbeat.agent_id)
        if agent is not None:
            agent.last_seen = datetime.now()
            agent.status = heartbeat.status
            agent.vm_count = heartbeat.vm_count

    def update_vm_count(self, agent_id: str, count: int) -> None:
        """Notes how many machines an agent has."""
        agent = self._agents.get(agent_id)
        if agent is not None:
            agent.vm_count = count

    def check_agent_status(self) -> None:
        """Sets agents offline that have been silent too long, and online that are not."""
        for agent in self._agents.values():
            seen = agent.last_seen
            if seen is None:
                continue
            # Tooling may have put in any kind of time.
            age = (datetime.now(seen.tzinfo) - seen).total_seconds()
            if age > self._offline_threshold:
                agent.status = "offline"
            elif agent.status == "offline":
                agent.status = "online"

    async def start_heartbeat_monitor(self) -> None:
        """Looks at their age from now on; once is enough."""
        if self._heartbeat_task is None or self._heartbeat_task.done():
            self._heartbeat_task = asyncio.create_task(self._heartbeat_loop())

    async def stop_heartbeat_monitor(self) -> None:
        """Stops looking."""
        task, self._heartbeat_task = self._heartbeat_task, None
        if task is not None:
            task.cancel()
            await asyncio.wait([task])

    async def _heartbeat_loop(self) -> None:
        while True:
            await asyncio.sleep(self._heartbeat_interval)
            try:
                self.check_agent_status()
            except Exception:
                logger.exception("the age of agents could not be checked")


agent_registry = AgentRegistry()
