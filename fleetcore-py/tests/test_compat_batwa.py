"""`fleetcore.compat.batwa` against what was recorded from the original: every call, in its order, and every signature.

`data/` holds the recordings. Where this package is meant to differ, `told` says so.
"""

from __future__ import annotations

import asyncio
import inspect
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta, timezone
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("pydantic", reason="NO PYDANTIC: the models of Batwa are made with it")

from pydantic import BaseModel

from fleetcore import aio
from fleetcore.compat import batwa
from fleetcore.compat.batwa import agent_executor, agents, auth, communication, models, multipass, remote_executor
from fleetcore.compat.batwa import _multipass as internals

DATA = Path(__file__).parent / "data"
CALLS = [json.loads(line) for line in (DATA / "batwa_python_calls.jsonl").read_text().splitlines()]
SIGNATURES = json.loads((DATA / "batwa_python_signatures.json").read_text())
KEY = "agent-secret-1"
MODULES = {
    "app.models": models,
    "app.multipass": multipass,
    "app.auth": auth,
    "app.agents": agents,
    "app.communication": communication,
    "app.remote_executor": remote_executor,
    "agent.agent_executor": agent_executor,
}


def machine(state: str, *ipv4: str, release: str = "22.04", cpus: int = 1) -> dict[str, Any]:
    return {"state": state, "ipv4": list(ipv4), "release": f"Ubuntu {release} LTS", "cpus": cpus}


class Host:
    """A host with a multipass of its own."""

    def __init__(self, root: Path, vms: dict[str, dict[str, Any]]) -> None:
        self.state = root / "state.json"
        self.bin = root / "bin"
        self.bin.mkdir(parents=True)
        # With this interpreter: a test takes everything else out of PATH.
        text = (Path(__file__).parent / "multipass_standin.py").read_text()
        (self.bin / "multipass").write_text(f"#!{sys.executable}\n{text}")
        (self.bin / "multipass").chmod(0o755)
        self.set(vms=vms)

    def set(self, **settings: object) -> None:
        before = json.loads(self.state.read_text()) if self.state.exists() else {}
        self.state.write_text(json.dumps(before | settings))

    def asked(self) -> list[list[str]]:
        return [json.loads(line) for line in Path(f"{self.state}.log").read_text().splitlines()]

    def run(self, *args: str) -> subprocess.CompletedProcess[str]:
        env = dict(os.environ, MP_STATE=str(self.state))
        return subprocess.run([self.bin / "multipass", *args], env=env, capture_output=True, text=True)


@pytest.fixture
def local(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Host:
    """This host, as it was when the calls were recorded."""
    vms = {
        "primary": machine("Running", "10.1.2.3", "172.17.0.1", cpus=2),
        "db": machine("Stopped", release="24.04"),
        "old": machine("Deleted", release="20.04"),
    }
    host = Host(tmp_path / "here", vms)
    monkeypatch.setenv("MP_STATE", str(host.state))
    monkeypatch.setenv("PATH", f"{host.bin}:{os.environ['PATH']}")
    return host


class Agent:
    """An agent as the original one answers."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self.seen: list[tuple[str, str, str | None]] = []
        #: Answers something else.
        self.odd: Callable[[BaseHTTPRequestHandler], None] | None = None
        agent = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def answer(self, status: int, body: object) -> None:
                data = json.dumps(body).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def do(self) -> None:
                length = int(self.headers.get("Content-Length") or 0)
                body = json.loads(self.rfile.read(length)) if length else {}
                agent.seen.append((self.command, self.path, self.headers.get("X-API-Key")))
                if agent.odd is not None:
                    return agent.odd(self)
                if self.path != "/health" and self.headers.get("X-API-Key") != KEY:
                    return self.answer(403, {"detail": "Invalid or missing API key"})
                self.answer(*agent.reply(self.path, body))

            do_GET = do_POST = do

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def reply(self, path: str, body: dict[str, Any]) -> tuple[int, object]:
        verb = path.rpartition("/")[2]
        if path == "/health":
            return 200, {"status": "ok"}
        if path == "/api/vm/list":
            return 200, json.loads(self.host.run("list", "--format", "json").stdout)
        if path.startswith("/api/vm/info/"):
            got = self.host.run("info", verb, "--format", "json")
            return (500, {"detail": f"404: {got.stderr}"}) if got.returncode else (200, json.loads(got.stdout))
        if path == "/api/execute":
            got = self.host.run(*body["args"])
            ok = got.returncode == 0
            error = "" if ok else got.stderr
            code = 0 if ok else 1
            return 200, {"success": ok, "stdout": got.stdout, "stderr": error, "return_code": code, "error": None}
        if verb == "create":
            options = [f"--{k}={body[k]}".partition("=")[::2] for k in ("name", "cpus", "memory", "disk")]
            got = self.host.run("launch", body["image"], *(word for pair in options for word in pair))
        elif verb in ("start", "stop"):
            got = self.host.run(verb, body["name"])
        elif verb == "delete":
            got = self.host.run("delete", "--purge", body["name"])
        else:
            return 404, {"detail": "Not Found"}
        if got.returncode:
            return 500, {"detail": f"500: {got.stderr}"}
        return 200, {"success": True, "message": "VM deleted and purged" if verb == "delete" else got.stdout}


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[Agent]:
    """The agent of the recordings."""
    vms = {
        "web": machine("Running", "10.5.0.7", cpus=4),
        "primary": machine("Running", "10.5.0.8"),
        "batch": machine("Suspended"),
    }
    agent = Agent(Host(tmp_path / "there", vms))
    thread = threading.Thread(target=agent.server.serve_forever)
    thread.start()
    yield agent
    agent.server.shutdown()
    agent.server.server_close()
    thread.join()


@pytest.fixture(autouse=True)
def forgetful() -> Iterator[None]:
    yield
    agents.agent_registry._agents.clear()
    agents.agent_registry._api_keys.clear()
    internals._agents = None


def request(url: str, **more: Any) -> models.AgentRegisterRequest:
    given: dict[str, Any] = {"agent_id": "agent1", "hostname": "h1", "api_url": url, "api_key": KEY}
    return models.AgentRegisterRequest(**given | more)


def plain(value: object) -> object:
    """As the recorder wrote it."""
    if isinstance(value, BaseModel):
        return {"__model__": type(value).__name__, **value.model_dump(mode="json")}
    if isinstance(value, (remote_executor.VMExecutor, remote_executor.ExecutorFactory)):
        return {"__object__": type(value).__name__}
    return [plain(v) for v in value] if isinstance(value, list) else value


def told(value: Any) -> Any:
    """The recorded answer as this package gives it: where it is meant to be better than the original."""
    if isinstance(value, dict):
        for key in ("error", "message"):
            text = value.get(key)
            # The agent's own words, not the address it has inside.
            if isinstance(text, str) and text.startswith("Server error '500"):
                verb = "info" if "/info/" in text else "launch" if "/create" in text else "delete"
                name = "nosuch" if verb == "info" else "r1"
                why = "already exists" if verb == "launch" else "does not exist"
                value = value | {key: f'{verb} failed: instance "{name}" {why}\n'}
            if isinstance(text, str) and text.startswith("Client error '404"):
                value = value | {key: "Not Found"}
        value = {k: told(v) for k, v in value.items() if k != "last_seen"}
    if isinstance(value, list):
        # Deleting one machine leaves the other deleted ones alone.
        value = [told(v) for v in value if not (isinstance(v, dict) and v.get("name") == "old")]
    return value


def test_every_recorded_call(local: Host, agent: Agent, monkeypatch: pytest.MonkeyPatch) -> None:
    registry = agents.agent_registry
    names = {
        "app": SimpleNamespace(multipass=multipass),
        "agent_registry": registry,
        "communicator": communication.communicator,
        "LocalVMExecutor": remote_executor.LocalVMExecutor,
        "RemoteVMExecutor": lambda id, _: remote_executor.RemoteVMExecutor(id, communication.communicator),
        "get_executor_factory": remote_executor.get_executor_factory,
        "AgentExecutor": agent_executor.AgentExecutor,
        "AgentRegisterRequest": lambda _: request(agent.url),
        "AgentHeartbeat": lambda _: models.AgentHeartbeat(
            agent_id="agent1", timestamp=datetime.now(), status="online", vm_count=3
        ),
    }
    done = 0
    for record in CALLS:
        call, _, remark = record["call"].partition("  # ")
        if call.startswith("routes with"):
            continue  # of the web server: fleetcore's own has a suite for them
        if remark.startswith("agent offline"):
            registry._agents["agent1"].status = "offline"
        if remark.startswith("output is not JSON"):
            local.set(broken=True)
        if remark.startswith("multipass not installed"):
            monkeypatch.setenv("PATH", "/nowhere")
        function: dict[str, Any] = {}
        exec(f"async def it():\n    return {call}", names, function)
        got = plain(asyncio.run(function["it"]()))
        want = told(json.loads(json.dumps(record["returns"]).replace("http://127.0.0.1:8001", agent.url)))
        assert told(got) == want, record["call"]
        done += 1
    assert done == len(CALLS) - 2


def test_every_recorded_signature() -> None:
    def words(signature: str) -> str:
        for module in MODULES:
            signature = signature.replace(f"{module}.", "")
        for long, short in (("typing.", ""), ("'", ""), ("Dict[str, Any]", "Dict"), ("Dict[str, object]", "Dict")):
            signature = signature.replace(long, short)
        return signature.replace("List[str]", "list").removesuffix(" -> None")

    def shape(of: Any) -> str:
        # The original leaves out what returns nothing.
        return ("async " if inspect.iscoroutinefunction(of) else "") + words(str(inspect.signature(of)))

    checked = 0
    for module, things in SIGNATURES.items():
        ours = MODULES.get(module)
        if ours is None:
            continue
        for name, what in things.items():
            thing = getattr(ours, name)
            if what["kind"] == "function":
                assert shape(thing) == words(what["signature"]), (module, name)
                checked += 1
            if what["kind"] != "class":
                continue
            for field, facts in what.get("fields", {}).items():
                known = thing.model_fields[field]
                assert known.is_required() == facts["required"], (name, field)
                if not facts["required"]:
                    assert known.default == facts["default"], (name, field)
                checked += 1
            for method, signature in what.get("methods", {}).items():
                if method in ("__aenter__", "__aexit__"):
                    assert inspect.iscoroutinefunction(getattr(thing, method))
                else:
                    assert shape(getattr(thing, method)) == words(signature), (module, name, method)
                checked += 1
    assert checked > 90


def test_arguments_given_to_multipass(local: Host) -> None:
    async def main() -> None:
        here = remote_executor.LocalVMExecutor()
        await here.list_vms()
        await here.get_vm_info("db")
        await here.create_vm("n1", 2, "2G", "10G", "24.04")
        await here.stop_vm("n1")
        await here.start_vm("n1")
        await here.delete_vm("n1")

    asyncio.run(main())
    assert local.asked() == [
        ["list", "--format", "json"],
        ["info", "db", "--format", "json"],
        ["launch", "24.04", "--name", "n1", "--cpus", "2", "--memory", "2G", "--disk", "10G"],
        ["stop", "n1"],
        ["start", "n1"],
        ["delete", "--purge", "n1"],
    ]


@pytest.mark.parametrize("name", ["--all", "-x", "", "a b", "a/../b", "x\n", "a\0", "é"])
def test_names_that_multipass_would_misunderstand(local: Host, agent: Agent, name: str) -> None:
    agents.agent_registry.register_agent(request(agent.url))

    async def main() -> None:
        for executor in (
            remote_executor.LocalVMExecutor(),
            remote_executor.RemoteVMExecutor("agent1", communication.communicator),
        ):
            for answer in (
                await executor.stop_vm(name),
                await executor.delete_vm(name),
                await executor.create_vm(name, 1, "1G", "5G", "22.04"),
            ):
                assert answer["success"] is False and "invalid VM name" in answer["message"]
            assert (await executor.get_vm_info(name))["success"] is False

    asyncio.run(main())
    there = agent_executor.AgentExecutor()
    assert there.stop_vm(name)["success"] is False
    assert there.execute_shell_command(name, "true")["return_code"] == 1
    assert multipass.get_vm_ip(name) is None
    assert agent.seen == [] and not Path(f"{local.state}.log").exists()


def test_other_bad_input(local: Host) -> None:
    async def create(**change: Any) -> str:
        good: dict[str, Any] = {"name": "n", "cpus": 1, "memory": "1G", "disk": "5.5G", "image": "22.04"}
        answer = await remote_executor.LocalVMExecutor().create_vm(**good | change)
        assert answer["success"] is False
        return str(answer["message"])

    assert "image" in asyncio.run(create(image="--mount=/:/host"))
    assert "cpus" in asyncio.run(create(cpus=0))
    assert "cpus" in asyncio.run(create(cpus=None))
    assert "memory" in asyncio.run(create(memory="-1"))
    assert "disk" in asyncio.run(create(disk=None))
    with pytest.raises(ValueError):
        multipass.run_multipass_command(["info", "a\0b"])
    with pytest.raises(TypeError):
        multipass.run_multipass_command(["info", 7])  # type: ignore[list-item]


def test_the_spinner_is_no_message(local: Host) -> None:
    local.set(spinner=True)

    async def main() -> None:
        here = remote_executor.LocalVMExecutor()
        made = await here.create_vm("n1", 1, "1G", "5G", "22.04")
        assert made == {"success": True, "message": "Launched: n1\n"}
        assert await here.start_vm("n1") == {"success": True, "message": ""}

    asyncio.run(main())


def test_the_event_loop_goes_on(local: Host, tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    (local.bin / "multipass").write_text(f'#!/bin/sh\necho up > "{fifo}"\nexec sleep 1000\n')

    async def main() -> None:
        task = asyncio.create_task(remote_executor.LocalVMExecutor().list_vms())
        up = await asyncio.to_thread(fifo.read_text)
        assert up == "up\n" and not task.done()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())


def test_agents_age_by_this_hosts_clock() -> None:
    registry = agents.AgentRegistry()
    agent = registry.register_agent(request("http://127.0.0.1:1"))
    zoned = datetime.now(timezone(timedelta(hours=5))) - timedelta(hours=9)
    beat = models.AgentHeartbeat(agent_id="agent1", timestamp=zoned, status="online", vm_count=7)
    registry.update_heartbeat(beat)
    registry.update_heartbeat(beat.model_copy(update={"agent_id": "nobody"}))
    registry.check_agent_status()
    assert (agent.status, agent.vm_count) == ("online", 7) and registry.get_agent("agent1") is agent
    agent.last_seen = datetime.now(timezone.utc) - timedelta(seconds=61)
    registry.check_agent_status()
    assert agent.status == "offline" and registry.get_online_agents() == []
    agent.last_seen = datetime.now()
    registry.check_agent_status()
    assert agent.status == "online" and registry.get_online_agents() == [agent]


def test_a_key_stays_with_its_address() -> None:
    registry = agents.AgentRegistry()
    registry.register_agent(request("http://127.0.0.1:1"))
    registry.register_agent(request("http://127.0.0.1:1", api_key=None))
    assert registry.get_agent_api_key("agent1") == KEY
    registry.register_agent(request("http://10.0.0.1:1", api_key=None))
    assert registry.get_agent_api_key("agent1") is None


def test_the_monitor_starts_once_and_stops() -> None:
    async def main() -> None:
        registry = agents.AgentRegistry()
        registry._heartbeat_interval = 0.001
        agent = registry.register_agent(request("http://127.0.0.1:1"))
        agent.last_seen = datetime.now() - timedelta(hours=1)
        await registry.start_heartbeat_monitor()
        first = registry._heartbeat_task
        await registry.start_heartbeat_monitor()
        assert registry._heartbeat_task is first and first is not None
        while agent.status != "offline":
            await asyncio.sleep(0)
        await registry.stop_heartbeat_monitor()
        await registry.stop_heartbeat_monitor()
        assert first.cancelled()

    asyncio.run(main())


def test_agents_that_misbehave(agent: Agent) -> None:
    registry = agents.agent_registry
    registry.register_agent(request(agent.url))
    talk = communication.AgentCommunicator(timeout=20)

    def raw(text: str) -> Callable[[BaseHTTPRequestHandler], None]:
        def answer(handler: BaseHTTPRequestHandler) -> None:
            handler.wfile.write(text.encode())
            handler.close_connection = True

        return answer

    async def asks(odd: str) -> str:
        agent.odd = raw(odd)
        answer = await talk.get_vm_list("agent1")
        assert set(answer) == {"error"} and answer["error"]
        assert not await talk.health_check("agent1")
        ran = await talk.execute_command("agent1", "multipass", ["version"])
        assert not ran.success and ran.return_code == -1 and ran.error
        return str(answer["error"])

    async def main() -> None:
        assert "HTTP" in await asks("SSH-2.0-OpenSSH\r\n")
        assert "invalid reply" in await asks("HTTP/1.1 200 OK\r\n\r\nnot json")
        assert "invalid reply" in await asks("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nnull")
        await asks("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{}")
        assert "too long" in await asks("HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n{}")
        assert "status 500" in await asks("HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n")
        # The key does not go where an agent points.
        before = len(agent.seen)
        assert "307" in await asks(f"HTTP/1.1 307 There\r\nLocation: {agent.url}/x\r\nContent-Length: 0\r\n\r\n")
        assert all(path != "/x" for _, path, _ in agent.seen[before:])
        chunked = 'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n6\r\n{"list\r\n5\r\n":[]}\r\n0\r\n\r\n'
        agent.odd = raw(chunked)
        assert await talk.get_vm_list("agent1") == {"list": []}

    asyncio.run(main())
    registry.register_agent(request(agent.url, api_key="wrong"))
    agent.odd = None
    assert asyncio.run(talk.get_vm_list("agent1")) == {"error": "Invalid or missing API key"}
    registry.register_agent(request("http://127.0.0.1:1"))
    refused = asyncio.run(talk.get_vm_list("agent1"))
    assert set(refused) == {"error"} and refused["error"]


def test_an_agent_that_hangs(agent: Agent) -> None:
    agents.agent_registry.register_agent(request(agent.url))
    over = threading.Event()
    agent.odd = lambda _: (over.wait(30), None)[1]

    async def main() -> None:
        async with communication.AgentCommunicator(timeout=1) as talk:
            ran = await talk.execute_command("agent1", "multipass", ["version"], timeout=1)
            assert ran.error == "Request timeout to agent agent1"
            assert await talk.get_vm_list("agent1") == {"error": "Request timeout to agent agent1"}

    asyncio.run(main())
    over.set()


def test_an_agent_that_is_a_target_of_the_fleet(local: Host) -> None:
    communication.use_fleet(aio.Fleet.local())
    agents.agent_registry.register_agent(request("fleet:local"))
    agents.agent_registry.register_agent(request("fleet:nowhere/at-all", agent_id="gone"))
    executor = remote_executor.RemoteVMExecutor("agent1", communication.communicator)

    async def main() -> None:
        assert [vm["name"] for vm in (await executor.list_vms())["data"]["list"]] == ["primary", "db", "old"]
        assert (await executor.create_vm("n1", 1, "1G", "5G", "22.04"))["success"]
        assert (await executor.stop_vm("n1"))["success"]
        assert await executor.delete_vm("n1") == {"success": True, "message": "VM deleted and purged"}
        again = await executor.delete_vm("n1")
        assert again == {"success": False, "message": 'delete failed: instance "n1" does not exist\n'}
        talk = communication.communicator
        assert (await talk.execute_command("agent1", "multipass", ["version"])).success
        assert await talk.health_check("agent1") and not await talk.health_check("gone")
        assert "nowhere" in (await talk.get_vm_list("gone"))["error"]

    asyncio.run(main())
    assert executor.get_location_info() == {"type": "remote", "agent_id": "agent1", "agent_hostname": "h1"}


def test_sessions() -> None:
    assert not auth.check_auth(None) and not auth.check_auth("x") and auth.users == {}
    auth.sessions["x"] = {"username": "me"}
    assert auth.check_auth("x")
    del auth.sessions["x"]


def test_in_the_place_of_the_originals() -> None:
    script = (
        "import sys, types\n"
        "app = types.ModuleType('app'); app.__path__ = []; sys.modules['app'] = app\n"
        "from fleetcore.compat import batwa\n"
        "batwa.install('app.models', 'app.agents')\n"
        "from app.agents import agent_registry\n"
        "import app.models\n"
        "print(agent_registry.get_all_agents(), app.models.AgentInfo.__module__, 'app.multipass' in sys.modules)\n"
        "batwa.install()\n"
        "from app.remote_executor import get_executor_factory\n"
        "sys.modules['app.auth'] = types.ModuleType('app.auth')\n"
        "try:\n"
        "    batwa.install('app.auth')\n"
        "except RuntimeError as e:\n"
        "    print(e)\n"
    )
    said = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert said.stdout.splitlines() == [
        "[] fleetcore.compat.batwa.models False",
        "app.auth has been imported already: call install() before that",
    ], said.stderr
    with pytest.raises(ValueError, match="app.nothing"):
        batwa.install("app.nothing")
