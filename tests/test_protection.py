"""Clients that are not wanted: browsers, other machines without a password, idle connections, too many of them."""

from __future__ import annotations

import asyncio
import resource
import socket
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from replicator.address import Address
from replicator.config import NodeConfig, load
from replicator.errors import ConfigError
from replicator.intervals import AUTH_TIMEOUT_S
from replicator.limits import RESERVED_DESCRIPTORS
from replicator.local.admin_client import NodeAdmin, NodeUnreachable, find_cluster
from replicator.server.http import app
from replicator.server.http.app import HttpServer
from replicator.server.protection import is_loopback, is_own_host, is_same_site
from replicator.server.redis import descriptors, server
from replicator.server.redis.descriptors import clients_within
from replicator.store.machine import open_machine
from tests.redis_fixture import ServerThread
from tests.test_admin import JOINING, PASSWORD, HttpServers, single_leader
from tests.test_redis_connection import Stage
from tests.test_redis_server import raw, read_all

CHANGES = [
    ("PUT", "/members"),
    ("POST", "/promote"),
    ("PUT", "/policy"),
    ("DELETE", "/members/n1"),
    ("POST", "/snapshots"),
]
JSON = {"Content-Type": "application/json"}


@pytest.fixture
async def servers(tmp_path: Path) -> AsyncIterator[HttpServers]:
    servers = HttpServers(tmp_path)
    yield servers
    await servers.close()


def test_loopback() -> None:
    for host in ("127.0.0.1", "127.1.2.3", "::1", "::ffff:127.0.0.1"):
        assert is_loopback(host)
    for host in ("10.0.0.1", "::ffff:10.0.0.1", "fe80::1%eth0", "", "localhost.evil.example"):
        assert not is_loopback(host)


def test_host_and_origin() -> None:
    for header in ("127.0.0.1:8001", "localhost:8001", "[::1]:8001", "10.0.0.1", "N1.shop:8001"):
        assert is_own_host(header, ["n1.shop"])
    for header in ("evil.example:8001", "", "n1.shop.evil.example", "localhost.evil.example:8001", "[::1", "\udce4"):
        assert not is_own_host(header, ["n1.shop"])
    assert is_same_site(None, "h:1") and is_same_site("http://h:1", "h:1")
    for origin in ("null", "http://evil.example", "http://h:2", "http://[", "http://h:1\udce4"):
        assert not is_same_site(origin, "h:1")


@pytest.mark.parametrize(("method", "path"), CHANGES)
async def test_pages_of_other_sites_change_nothing(servers: HttpServers, method: str, path: str) -> None:
    client, _ = await single_leader(servers)
    for headers, status in (
        ({"Content-Type": "text/plain"}, 415),
        ({**JSON, "Origin": "http://evil.example"}, 403),
        ({**JSON, "Host": "evil.example:8001"}, 403),
    ):
        got, answer = await client.ask(method, path, data=b"{}", headers=headers)
        assert got == status, answer
        assert answer["error"]


async def test_keys_are_not_read_by_a_page_whose_name_points_here(servers: HttpServers) -> None:
    client, _ = await single_leader(servers)
    assert (await client.ask("GET", "/keys/a", headers={"Host": "evil.example"}))[0] == 403
    assert (await client.ask("GET", "/keys/a"))[0] == 404
    assert (await client.ask("GET", "/readyz", headers={"Host": "balancer.example"}))[0] == 200


async def test_without_a_password_only_this_machine_may_write(
    servers: HttpServers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(app, "is_loopback", lambda host: False)  # as if the client were elsewhere
    client, _ = await single_leader(servers)
    assert (await client.ask("PUT", "/members", json=JOINING))[0] == 202
    _protect(client.server)
    for method, path in (*CHANGES, ("GET", "/keys/a")):
        status, answer = await client.ask(method, path, json={})
        assert status == 403
        assert "REPLICATOR_NODE_PASSWORD" in answer["error"]
    assert (await client.ask("GET", "/status"))[0] == 200


def _protect(http: HttpServer) -> None:
    http._protected = True


@pytest.mark.parametrize(
    ("password", "header", "status"),
    [
        ("", b"Host: [::1", 403),
        ("", b"Host: \xe4", 403),
        ("", b"Host: localhost\r\nOrigin: http://[", 403),
        (PASSWORD, b"Host: localhost\r\nAuthorization: Bearer \xe4", 401),
        ("pässw", b"Host: localhost\r\nAuthorization: Bearer p\xe4ssw", 401),  # in Latin-1
        ("pässw", b"Host: localhost\r\nAuthorization: Bearer p\xc3\xa4ssw", 415),
    ],
)
async def test_unreadable_headers_are_refused(servers: HttpServers, password: str, header: bytes, status: int) -> None:
    client, _ = await single_leader(servers, password)
    reader, writer = await asyncio.open_connection(client.http.host, client.http.port)
    writer.write(b"POST /snapshots HTTP/1.1\r\n" + header + b"\r\nContent-Length: 0\r\n\r\n")
    assert (await reader.readline()).startswith(f"HTTP/1.1 {status} ".encode())
    writer.close()


async def test_a_password_that_is_not_ascii(servers: HttpServers) -> None:
    client, _ = await single_leader(servers, "päss€")
    assert await asyncio.to_thread(NodeAdmin(client.http, "päss€").snapshot_progress) is None
    taken = await asyncio.to_thread(NodeAdmin(client.http, "päss€").take_snapshot)
    assert taken.manifest.cluster == "test"


async def test_with_a_password_any_name_and_machine_will_do(servers: HttpServers) -> None:
    client, _ = await single_leader(servers, PASSWORD)
    _protect(client.server)
    headers = {"Authorization": f"Bearer {PASSWORD}", "Host": "balancer.example"}
    assert (await client.ask("PUT", "/members", json=JOINING, headers=headers))[0] == 202


def test_redis_clients_of_other_machines_are_denied_without_a_password(
    serve: Callable[..., ServerThread], monkeypatch: pytest.MonkeyPatch
) -> None:
    thread = serve(protected=True)
    assert thread.client().ping()
    monkeypatch.setattr(server, "is_loopback", lambda host: False)
    with raw(thread) as connection:
        assert read_all(connection).startswith(b"-DENIED this node has no password")


@pytest.mark.parametrize(
    "data", [b"POST / HTTP/1.1\r\nHost: x\r\n\r\nSET a 1\r\n", b"GET / HTTP/1.1\r\nHost: x\r\n\r\nSET a 1\n"]
)
async def test_a_browser_is_disconnected(data: bytes) -> None:
    stage = Stage()
    await stage.step(data)
    assert stage.transport.aborted
    assert not stage.backend.unacked


def test_a_client_that_does_not_authenticate_is_disconnected(serve: Callable[..., ServerThread]) -> None:
    thread = serve(password="secret")
    with raw(thread) as connection, thread.client(password="secret") as other:
        assert other.ping()
        thread.run(_pass_time(thread, AUTH_TIMEOUT_S))
        assert read_all(connection) == b""
        assert other.ping()


async def test_idle_clients_are_disconnected() -> None:
    stage, waiting = Stage(), Stage()
    stage.server.timeout_s = waiting.server.timeout_s = 60
    waiting.connection.data_received(b"WAIT 1 0\n")
    start_s = stage.connection.received_s
    for it in (stage, waiting):
        it.server.close_idle(start_s + 59)
        assert not it.transport.closed
        it.server.close_idle(start_s + 61)
    assert stage.transport.closed
    assert not waiting.transport.closed


async def _pass_time(thread: ServerThread, seconds: float) -> None:
    redis_server = thread.servers[0]
    newest = max(it.connected_s for it in redis_server.connections.values())
    redis_server.close_idle(newest + seconds)


def test_connections_are_kept_alive(server: ServerThread) -> None:
    with server.client() as client:
        client.ping()
        assert server.run(_keepalive(server)) == 1


async def _keepalive(thread: ServerThread) -> int:
    connection = next(iter(thread.servers[0].connections.values()))
    ours: socket.socket = connection._transport.get_extra_info("socket")
    return ours.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)


def test_clients_leave_descriptors_for_the_node(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert clients_within(1024, 10_000) == 1024 - RESERVED_DESCRIPTORS
    assert clients_within(65_536, 10_000) == 10_000
    assert clients_within(resource.RLIM_INFINITY, 10_000) == 10_000
    limits = [(512, 1024)]
    monkeypatch.setattr(resource, "getrlimit", lambda which: limits[-1])
    monkeypatch.setattr(resource, "setrlimit", lambda which, new: limits.append(new))
    assert descriptors.fit_clients(500) == 500
    assert limits.pop() == (500 + RESERVED_DESCRIPTORS, 1024)
    assert descriptors.fit_clients(10_000) == 1024 - RESERVED_DESCRIPTORS
    assert "max_clients is lowered from 10000 to 768" in caplog.text
    limits[:] = [(100, 100)]
    with pytest.raises(ConfigError, match="ulimit -n"):
        descriptors.fit_clients(10)


def config(**node: str) -> NodeConfig:
    return load(None, {}, {"node": {"id": "n", "cluster": "c", "dir": "d", **node}, "kafka": {"bootstrap": "b:1"}})


def test_protected_mode_is_the_default() -> None:
    assert config().is_protected
    assert not config(password="p").is_protected
    assert not config(protected_mode="no").is_protected
    with pytest.raises(ConfigError, match="expected yes or no"):
        config(protected_mode="off")


def test_folders_of_data_are_private(tmp_path: Path) -> None:
    open_machine(tmp_path / "n1" / "store", "c", "t").close()
    assert (tmp_path / "n1" / "store").stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize(
    ("password", "message"),
    [("", "NOAUTH"), ("wrong", "WRONGPASS"), (PASSWORD, r"127\.0\.0\.1:1 \(connection refused\)")],
)
def test_a_command_that_connects_to_a_redis_port_is_not_taken_for_a_browser(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, password: str, message: str
) -> None:
    served = ServerThread(tmp_path, password=PASSWORD, http_address=Address("127.0.0.1", 1))
    try:
        with pytest.raises(NodeUnreachable, match=message):
            find_cluster(tmp_path, Address("127.0.0.1", served.port), password)
    finally:
        served.close()
    assert "speaks HTTP" not in caplog.text
