"""What the client of the admin API says if a node does not answer, or something else does."""

from __future__ import annotations

import re
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from replicator.address import Address
from replicator.local.admin_client import ClusterAdmin, NodeAdmin, NodeRefused, NodeUnreachable, find_cluster
from replicator.local.ports import random_free_port
from replicator.local.resp_connection import CommandFailed, RespConnection

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
        (b"HTTP/1.0 404 Not Found\r\n\r\n<html>", "the program at {} is not a replicator node (HTTP 404)"),
        (b"", "no node answers at {} (the connection was closed without a reply): check that the node is running"),
    ],
)
def test_another_program(serve: Serve, answer: bytes, message: str) -> None:
    http = serve(answer)
    with pytest.raises((NodeUnreachable, NodeRefused)) as raised:
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


def bulk(text: bytes) -> bytes:
    return b"$%d\r\n%s\r\n" % (len(text), text)


@pytest.mark.parametrize("host", [b"127.0.0.1", b"[::1]"])
def test_the_redis_port_of_a_node_names_its_http_address(serve: Serve, tmp_path: Path, host: bytes) -> None:
    http = b"%b:%d" % (host, random_free_port())
    info = bulk(b"# Replicator\r\nnode:n1\r\nhttp:" + http + b"\r\n")
    asked = serve(info)
    with pytest.raises(NodeUnreachable, match=re.escape(f"{http.decode()} (")):
        find_cluster(tmp_path, asked, "")


@pytest.mark.parametrize(
    "answer",
    [b"-ERR unknown command\r\n", b"", b"no reply of Redis\r\n", b":1\r\n", bulk(b"http:\r\n"), bulk(b"# Server\r\n")],
)
def test_the_redis_port_of_another_program_names_none(serve: Serve, tmp_path: Path, answer: bytes) -> None:
    with pytest.raises(NodeUnreachable, match="Check --connect"):
        find_cluster(tmp_path, serve(answer), "")


def test_an_error_is_raised_after_all_replies_are_read(serve: Serve) -> None:
    with RespConnection(serve(b"+OK\r\n-ERR first\r\n-ERR second\r\n")) as connection:
        with pytest.raises(CommandFailed, match="ERR first"):
            connection.execute_all([("SET", "k", 1)] * 3)
        with pytest.raises(ConnectionResetError):  # its text depends on whether PING meets the end or a reset
            connection.execute("PING")
