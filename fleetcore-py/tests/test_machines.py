"""Machines, providers, agents, records, tunnels."""

from __future__ import annotations

import asyncio
import socket
import threading
import uuid
from pathlib import Path

import pytest
from conftest import Place, Server, patiently

import fleetcore
from fleetcore import aio


@pytest.fixture
def sandboxes(fleet: fleetcore.Fleet, place: Place) -> fleetcore.Machines:
    """A fleet that can make machines."""
    provider = next((p for p in fleet.machines.providers() if p.name == "sandbox"), None)
    if provider is None or not provider.available:
        pytest.skip(f"NO SANDBOXES with {place.kind}: {provider.reason if provider else 'no data_dir'}")
    return fleet.machines


def test_life_of_a_machine(fleet: fleetcore.Fleet, sandboxes: fleetcore.Machines) -> None:
    name = f"sandbox/py-{uuid.uuid4().hex[:8]}"
    lines: list[str] = []
    machine = sandboxes.create(name, labels={"for": "tests"}, progress=lines.append)
    try:
        assert (machine.target, machine.state, machine.labels["for"]) == (name, "running", "tests")
        listed = sandboxes.list(labels={"for": "tests"})
        assert name in [m.target for m in listed] and name in listed._repr_html_()
        assert fleet.run(machine, ["echo", "inside"], check=True).text == "inside\n"
        [one] = fleet.run_many(["sandbox/*"], ["true"], with_labels={"for": "tests"})
        assert one.ok
        assert sandboxes.stop(machine).state == "stopped"
        assert sandboxes.start(machine).state == "running"
        with pytest.raises(fleetcore.AlreadyExistsError):
            sandboxes.create(name)
    finally:
        sandboxes.delete(name, purge=True)
    with pytest.raises(fleetcore.NotFoundError):
        sandboxes.get(name)


def test_machines_refuse_what_cannot_be(fleet: fleetcore.Fleet) -> None:
    with pytest.raises(fleetcore.UnsupportedError):
        fleet.machines.start("local")
    with pytest.raises(fleetcore.NotFoundError):
        fleet.machines.create("nowhere/x")
    with pytest.raises(fleetcore.InvalidInputError, match="mode"):
        fleet.machines.stop("sandbox/x", mode="softly")  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        fleet.machines.create("sandbox/x", cpus="many")  # type: ignore[arg-type]


def test_records_are_kept_with_a_data_dir(tmp_path: Path) -> None:
    with fleetcore.Fleet.local(data_dir=tmp_path) as fleet:
        with fleet.stream("local", ["sh", "-c", "echo abc; exit 2"], labels={"a": "b"}) as stream:
            stream.wait()
        [record] = fleet.commands()
        assert (record.id, record.state, record.exit_code) == (stream.id, "failed", 2)
        assert record.labels == {"a": "b"} and "<table>" in fleet.commands()._repr_html_()
        with fleet.attach(stream.id, offset=1) as again:
            assert b"".join(c.data for c in again) == b"bc\n" and again.exit_code == 2


def test_agents_belong_to_a_server(fleet: fleetcore.Fleet) -> None:
    if fleet.url is None:
        with pytest.raises(fleetcore.UnsupportedError):
            fleet.agents()
        return
    assert fleet.agents() == []
    made = fleet.join_code(labels={"a": "b"}, expires_in=60)
    assert made.code and made.code not in repr(made) and made.expires_at is not None
    with pytest.raises(fleetcore.NotFoundError):
        fleet.remove_agent("nobody")


def test_a_server_that_is_not_there_or_does_not_know_us(server: Server) -> None:
    with pytest.raises(fleetcore.UnavailableError) as away:
        fleetcore.Fleet.connect("http://127.0.0.1:1").run("local", ["true"])
    assert away.value.code == "unavailable"
    with pytest.raises(fleetcore.AuthenticationError):
        fleetcore.Fleet.connect(server.url, "fct_wrong").targets()
    with pytest.raises(fleetcore.InvalidInputError, match="server"):
        fleetcore.Fleet.connect("not a url")
    with pytest.raises(fleetcore.NotFoundError):
        fleetcore.Fleet.connect(server.url, server.token).run("nowhere/x", ["true"])

    async def main() -> None:
        with pytest.raises(fleetcore.UnavailableError):
            await aio.Fleet.connect("http://127.0.0.1:1").targets()

    asyncio.run(main())


def test_ssh_hosts_come_from_a_file(tmp_path: Path) -> None:
    config = tmp_path / "config"
    config.write_text("Host there\n  HostName 127.0.0.1\n  Port 1\n")
    fleet = fleetcore.Fleet.local(ssh=config)
    assert "ssh/there" in [t.target for t in fleet.targets()]
    with pytest.raises(fleetcore.FleetError):
        fleet.run("ssh/there", ["true"])


def test_a_closed_fleet_refuses_and_has_let_go(tmp_path: Path) -> None:
    first = fleetcore.Fleet.local(data_dir=tmp_path)
    with pytest.raises(fleetcore.BusyError):
        fleetcore.Fleet.local(data_dir=tmp_path)
    first.close()
    first.close()
    with pytest.raises(fleetcore.InvalidStateError, match="closed"):
        first.run("local", ["true"])
    with patiently(lambda: fleetcore.Fleet.local(data_dir=tmp_path)) as second:
        assert second.run("local", ["true"]).ok
