"""Where the suite runs: this host, a sandbox of it, a live server. What is not there is skipped, and says why."""

from __future__ import annotations

import gc
import json
import os
import secrets
import subprocess
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


@pytest.fixture(scope="session", params=["local", "sandbox", "server"])
def place(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """Each backend in turn."""
    kind = request.param
    if kind == "server":
        live: Server = request.getfixturevalue("server")
        yield Place(kind, "local", live.url, live.token)
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
    if place.url is not None:
        opened = fleetcore.Fleet.connect(place.url, place.token)
    else:
        opened = patiently(lambda: fleetcore.Fleet.local(data_dir=place.data_dir))
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
