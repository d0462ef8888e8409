"""Where the suite runs: this host, a sandbox of it, a live server. What is not there is skipped, and says why."""

from __future__ import annotations

import gc
import json
import os
import pwd
import secrets
import shutil
import socket
import subprocess
import threading
import time
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import pytest

import fleetcore

ROOT = Path(__file__).parents[2]


def program() -> str | None:
    """The fleetcore program: FLEETCORE_BIN, or what cargo has built."""
    given = os.environ.get("FLEETCORE_BIN")
    if given:
        return given
    target = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
    found = [p for p in (target / "debug/fleetcore", target / "release/fleetcore") if p.exists()]
    return str(max(found, key=lambda p: p.stat().st_mtime)) if found else None


@dataclass
class Server:
    url: str
    token: str


def _post(url: str, path: str, body: object, cookie: str = "") -> tuple[dict[str, object], str]:
    headers = {"content-type": "application/json", "origin": url, "cookie": cookie}
    request = urllib.request.Request(url + path, json.dumps(body).encode(), headers)
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(request, timeout=30) as answer:
        given = str(answer.headers.get("set-cookie", "")).split(";")[0]
        return json.loads(answer.read()), given


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A live server, and a token that may do everything."""
    binary = program()
    if binary is None:
        pytest.skip("NO LIVE SERVER: run `cargo build -p fleetcore-cli` or set FLEETCORE_BIN")
    data = tmp_path_factory.mktemp("server")
    password = secrets.token_urlsafe(16)
    env = {
        "PATH": os.environ["PATH"],
        "HOME": str(data),
        "LANG": "C.UTF-8",
        "FLEETCORE_ADMIN_PASSWORD": password,
    }
    command = [binary, "serve", "--listen", "127.0.0.1:0", "--data-dir", str(data / "data")]
    with (data / "log").open("wb") as log:
        process = subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=log, text=True)
    try:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        if not url:
            pytest.fail(f"the server did not start: {(data / 'log').read_text()}")
        _, cookie = _post(url, "/api/v1/login", {"user": "admin", "password": password})
        scopes = ["read", "run", "files", "machines", "tunnels", "admin"]
        made, _ = _post(url, "/api/v1/tokens", {"name": "python", "scopes": scopes}, cookie)
        yield Server(url, str(made["secret"]))
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@dataclass
class Place:
    """One backend the suite runs over."""

    kind: str
    target: str
    url: str | None = None
    token: str | None = None
    data_dir: str | None = None
    ssh: str | None = None

    def open(self) -> fleetcore.Fleet:
        """A fleet of it."""
        if self.url is not None:
            return fleetcore.Fleet.connect(self.url, self.token)
        return patiently(lambda: fleetcore.Fleet.local(data_dir=self.data_dir, ssh=self.ssh or False))


_F = TypeVar("_F")


def patiently(opening: Callable[[], _F]) -> _F:
    """Opens what the fleet before may hold after it was closed: commands read from its store as long as Python keeps
    them, and a traceback may keep them until the next collection."""
    deadline = time.monotonic() + 20
    while True:
        try:
            return opening()
        except fleetcore.BusyError:
            gc.collect()
            if time.monotonic() > deadline:
                raise


@pytest.fixture(scope="session")
def sshd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A real sshd for the current user; the file in which it is the host ``box``."""
    program = next((p for p in ("/usr/sbin/sshd", "/usr/local/sbin/sshd", "/usr/lib/ssh/sshd") if os.path.exists(p)), None)
    if program is None or shutil.which("ssh-keygen") is None:
        pytest.skip("NO SSHD: install openssh-server")
    root = tmp_path_factory.mktemp("sshd")
    for name in ("host", "user"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", root / name], check=True)
    if os.geteuid() == 0:
        os.makedirs("/run/sshd", exist_ok=True)  # as root it insists on it
    # Somebody else may take the port before it does.
    for _ in range(5):
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        (root / "sshd_config").write_text(
            f"ListenAddress 127.0.0.1\nPort {port}\nHostKey {root}/host\nAuthorizedKeysFile {root}/user.pub\n"
            f"PidFile {root}/pid\nStrictModes no\nUsePAM no\nPermitRootLogin yes\nPasswordAuthentication no\n"
            "KbdInteractiveAuthentication no\nPrintMotd no\nPrintLastLog no\nLogLevel INFO\nMaxStartups 200\n"
            "Subsystem sftp internal-sftp\nSetEnv SHLVL=1\n"
        )
        command = [program, "-D", "-e", "-f", str(root / "sshd_config")]
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        assert process.stderr is not None
        if any("Server listening on" in line for line in process.stderr):
            break
        process.wait()
    else:
        pytest.fail("sshd does not start")
    threading.Thread(target=process.stderr.read, daemon=True).start()
    host_key = (root / "host.pub").read_text()
    (root / "known_hosts").write_text(f"[127.0.0.1]:{port} {host_key}")
    user = pwd.getpwuid(os.geteuid()).pw_name
    (root / "config").write_text(
        f"Host box\n  HostName 127.0.0.1\n  Port {port}\n  User {user}\n  IdentityFile {root}/user\n"
        f"  UserKnownHostsFile {root}/known_hosts\n"
    )
    yield str(root / "config")
    process.terminate()
    process.wait()


@pytest.fixture(scope="session", params=["local", "sandbox", "ssh", "server"])
def place(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """Each backend in turn."""
    kind = request.param
    if kind == "server":
        live: Server = request.getfixturevalue("server")
        yield Place(kind, "local", live.url, live.token)
    elif kind == "ssh":
        yield Place(kind, "ssh/box", ssh=request.getfixturevalue("sshd"))
    elif kind == "sandbox":
        data = str(tmp_path_factory.mktemp("sandboxes"))
        target = f"sandbox/py-{uuid.uuid4().hex[:8]}"
        with fleetcore.Fleet.local(data_dir=data) as fleet:
            [provider] = [p for p in fleet.machines.providers() if p.name == "sandbox"]
            if not provider.available:
                pytest.skip(f"NO SANDBOXES HERE: {provider.reason}")
            fleet.machines.create(target)
        # The directory is one process's and one fleet's at a time: tests open it anew.
        yield Place(kind, target, data_dir=data)
        with patiently(lambda: fleetcore.Fleet.local(data_dir=data)) as fleet:
            fleet.machines.delete(target, purge=True)
    else:
        yield Place(kind, "local")


@pytest.fixture
def fleet(place: Place) -> Iterator[fleetcore.Fleet]:
    """A fleet of that backend."""
    opened = place.open()
    with opened:
        yield opened


@pytest.fixture
def target(place: Place) -> str:
    """A target of it."""
    return place.target


@pytest.fixture
def scratch(fleet: fleetcore.Fleet, target: str) -> Iterator[str]:
    """An empty directory there."""
    path = fleet.run(target, ["mktemp", "-d"], check=True).text.strip()
    yield path
    fleet.run(target, ["rm", "-rf", "--", path], check=True)
