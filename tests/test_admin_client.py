"""What the client of the admin API says if a node does not answer, or something else does."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from replicator.address import Address
from replicator.local.admin_client import ClusterAdmin, NodeAdmin, NodeRefused, NodeUnreachable, find_cluster

Serve = Callable[[bytes], Address]

UNAUTHORIZED = b'HTTP/1.0 401 Unauthorized\r\n\r\n{"error": "this request needs the header Authorization"}'


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Starts a program that answers each request with the same bytes."""
    listeners: list[socket.socket] = []
    threads: list[threading.Thread] = []

    def start(answer: bytes) -> Address:
        listener = socket.create_server(("127.0.0.1", 0))
        listeners.append(listener)
        threads.append(threading.Thread(target=_answer_all, args=(listener, answer)))
        threads[-1].start()
        return Address(*listener.getsockname())

    yield start
    for listener in listeners:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
    for thread in threads:
        thread.join()


def _answer_all(listener: socket.socket, answer: bytes) -> None:
    while True:
        try:
            connection, _ = listener.accept()
        except OSError:  # closed
            return
        with connection:
            connection.recv(65536)
            connection.sendall(answer)


@pytest.fixture
def nobody() -> Iterator[Address]:
    """An address at which nothing listens."""
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        yield Address(*reserved.getsockname())


def test_a_node_that_does_not_answer(nobody: Address) -> None:
    with pytest.raises(NodeUnreachable) as raised:
        NodeAdmin(nobody).status()
    assert str(raised.value) == f"no node answers at {nobody} (connection refused): check that the node is running"


def test_a_cluster_that_does_not_answer(nobody: Address) -> None:
    with pytest.raises(NodeUnreachable) as raised:
        ClusterAdmin([nobody, nobody], "").any_node()
    refused = f"{nobody} (connection refused)"
    start = "Start them with `replicator cluster up`"
    assert str(raised.value) == f"no node of the cluster answers: {refused}, {refused}. {start}"


def test_an_address_at_which_no_node_answers(nobody: Address, tmp_path: Path) -> None:
    with pytest.raises(NodeUnreachable, match="Check --connect, and that the node is running"):
        find_cluster(tmp_path, nobody, "")


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (b"SSH-2.0-OpenSSH_9.6\r\n", "the program at {} is not a replicator node"),
        (b"HTTP/1.0 200 OK\r\n\r\n<html>", "the program at {} is not a replicator node"),
        (b"", "no node answers at {} (the connection was closed without a reply): check that the node is running"),
    ],
)
def test_another_program(serve: Serve, answer: bytes, message: str) -> None:
    http = serve(answer)
    with pytest.raises(NodeUnreachable) as raised:
        NodeAdmin(http).status()
    assert str(raised.value) == message.format(http)


@pytest.mark.parametrize(
    ("password", "message"),
    [
        ("", "a password is needed: set REPLICATOR_NODE_PASSWORD"),
        ("wrong", "the password is wrong: correct REPLICATOR_NODE_PASSWORD"),
    ],
)
def test_a_node_with_a_password(serve: Serve, password: str, message: str) -> None:
    with pytest.raises(NodeRefused) as raised:
        NodeAdmin(serve(UNAUTHORIZED), password).take_snapshot()
    assert str(raised.value) == message
