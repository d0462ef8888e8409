"""Ports that lead to targets: cases of the Rust behaviour suite `tunnel`, by the same names, over every backend."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator

import pytest

import fleetcore
from fleetcore import Fleet
from conftest import Place

Serve = Callable[[Callable[[socket.socket], None]], int]


@pytest.fixture
def serve(place: Place) -> Iterator[Serve]:
    """Serves connections on a port of the target: of this host, which all but the sandbox are."""
    if place.kind == "sandbox":
        pytest.skip("a sandbox has a network of its own")
    listening: list[socket.socket] = []

    def start(handle: Callable[[socket.socket], None]) -> int:
        sock = socket.create_server(("127.0.0.1", 0))
        listening.append(sock)

        def accept() -> None:
            try:
                while True:
                    connection, _ = sock.accept()
                    threading.Thread(target=handle, args=(connection,), daemon=True).start()
            except OSError:
                pass  # closed

        threading.Thread(target=accept, daemon=True).start()
        return int(sock.getsockname()[1])

    yield start
    for sock in listening:
        sock.shutdown(socket.SHUT_RDWR)
        sock.close()


def echo(connection: socket.socket) -> None:
    with connection:
        while data := connection.recv(1 << 16):
            connection.sendall(data)


def read_all(connection: socket.socket) -> bytes:
    got = b""
    while piece := connection.recv(1 << 16):
        got += piece
    return got


def test_connections_open_or_are_unsupported(fleet: Fleet, target: str, serve: Serve) -> None:
    with fleet.forward(target, f"localhost:{serve(echo)}") as tunnel:
        with socket.create_connection((tunnel.host, tunnel.port), 20) as near:
            near.sendall(b"hello")
            near.shutdown(socket.SHUT_WR)
            assert read_all(near) == b"hello"


def test_much_goes_both_ways_byte_by_byte(fleet: Fleet, target: str, serve: Serve) -> None:
    data = bytes(range(256)) * 8000
    with fleet.forward(target, f"127.0.0.1:{serve(echo)}") as tunnel:
        with socket.create_connection((tunnel.host, tunnel.port), 20) as near:

            def send() -> None:
                near.sendall(data)
                near.shutdown(socket.SHUT_WR)

            sending = threading.Thread(target=send)
            sending.start()
            assert read_all(near) == data
            sending.join(20)


def test_many_connections_do_not_mix(fleet: Fleet, target: str, serve: Serve) -> None:
    with fleet.forward(target, f"127.0.0.1:{serve(echo)}") as tunnel:
        near = [socket.create_connection((tunnel.host, tunnel.port), 20) for _ in range(20)]
        for n, connection in enumerate(near):
            connection.sendall(b"%d" % n * 100)
            connection.shutdown(socket.SHUT_WR)
        for n, connection in enumerate(near):
            with connection:
                assert read_all(connection) == b"%d" % n * 100


def test_a_tunnel_serves_and_survives_refusals(fleet: Fleet, target: str, serve: Serve) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        nobody = free.getsockname()[1]
    with fleet.forward(target, f"127.0.0.1:{nobody}") as tunnel:
        for _ in range(2):
            # It is closed or reset, maybe before it is seen to be there.
            try:
                with socket.create_connection((tunnel.host, tunnel.port), 20) as near:
                    assert near.recv(1) == b""
            except ConnectionResetError:
                pass
    with pytest.raises(fleetcore.InvalidInputError):
        fleet.forward(target, "no port")
    with pytest.raises(fleetcore.InvalidInputError) as bad:
        fleet.forward(target, "localhost:80", bind="here")
    assert bad.value.field == "bind"


def test_dropping_a_tunnel_closes_all_of_it(fleet: Fleet, target: str, serve: Serve) -> None:
    with fleet.forward(target, f"127.0.0.1:{serve(echo)}") as tunnel:
        near = socket.create_connection((tunnel.host, tunnel.port), 20)
        near.sendall(b"x")
        assert near.recv(1) == b"x"
        address = (tunnel.host, tunnel.port)
    with near:
        try:
            assert near.recv(1) == b""
        except ConnectionResetError:
            pass
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(address, 20)
