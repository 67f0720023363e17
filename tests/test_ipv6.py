"""Nodes in memory that listen at ::1: whatever takes or shows an address works with IPv6."""

from __future__ import annotations

import asyncio
import shutil
import socket
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
import redis
from redis.sentinel import Sentinel
from typer.testing import CliRunner

from replicator.address import Address
from replicator.cli.main import app, main
from replicator.cli.output import print_whole
from replicator.cli.status import draw
from replicator.client import Client
from replicator.errors import ConfigError
from replicator.local.admin_client import ClusterAdmin
from replicator.local.status import MemberInfo, MemberStatus, unreachable
from replicator.local.summary import summarise
from replicator.log.kafka.brokers import Brokers
from replicator.log.kafka.log import KafkaLog
from replicator.log.kafka.topic import wal_topic
from replicator.position import NodeId
from replicator.records.types import Member, Mode
from replicator.server.redis.server import RedisServer
from replicator.server.registration import register
from tests.memory_cluster import until
from tests.redis_fixture import CLUSTER, STEADY, ServerThread
from tests.test_admin import HttpServers, single_leader, start_n2


def _has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


needs_ipv6 = pytest.mark.skipif(not _has_ipv6(), reason="this machine has no IPv6 loopback address (::1)")


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerThread]:
    """n1 leads n2."""
    thread = ServerThread(tmp_path_factory.mktemp("ipv6"), nodes=2, timing=STEADY, host="::1")
    yield thread
    thread.close()


@pytest.fixture
async def servers(tmp_path: Path) -> AsyncIterator[HttpServers]:
    servers = HttpServers(tmp_path)
    servers.host = "::1"
    yield servers
    await servers.close()


@needs_ipv6
def test_redis_clients_see_hosts_without_brackets(pair: ServerThread) -> None:
    first, second = (server.port for server in pair.servers)
    leader, follower = (pair.client(index, decode_responses=True) for index in (0, 1))
    leader.set("a", "1")
    assert leader.execute_command("WAIT", 1, 5000) == 1
    assert leader.execute_command("ROLE")[2][0][:2] == ["::1", str(second)]
    assert follower.execute_command("ROLE")[1:3] == ["::1", first]
    replica = leader.info("replication")["slave0"]
    assert (replica["ip"], replica["port"]) == ("::1", second)
    seen = follower.info("replication")
    assert (seen["master_host"], seen["master_port"]) == ("::1", first)
    assert leader.client_list()[0]["addr"].startswith("[::1]:")
    with pytest.raises(redis.ReadOnlyError, match=rf"The leader is n1, at \[::1\]:{first}"):
        follower.set("a", "2")


@needs_ipv6
def test_clients_of_sentinel_find_the_leader(pair: ServerThread) -> None:
    first, second = (server.port for server in pair.servers)
    follower = pair.client(1, decode_responses=True)
    assert follower.sentinel_get_master_addr_by_name(CLUSTER) == ("::1", first)
    [replica] = follower.sentinel_slaves(CLUSTER)
    assert (replica["name"], replica["ip"], replica["port"]) == (f"[::1]:{second}", "::1", second)
    assert (replica["master-host"], replica["master-port"]) == ("::1", first)
    assert follower.execute_command("SENTINEL", "IS-MASTER-DOWN-BY-ADDR", "::1", first, 0, "*")[0] == 0
    sentinel: Any = Sentinel([("::1", second)])  # type: ignore[no-untyped-call]
    assert sentinel.discover_master(CLUSTER) == ("::1", first)
    assert sentinel.master_for(CLUSTER).set("a", "3")


@needs_ipv6
def test_the_python_client(pair: ServerThread) -> None:
    with Client([f"[::1]:{pair.servers[1].port}"], cluster=CLUSTER) as client:
        client.set("a", "4")
        assert client.get("a") == b"4"
        assert client.leader() == Address("::1", pair.port)


@needs_ipv6
def test_redis_cli(pair: ServerThread) -> None:
    program = shutil.which("redis-cli")
    if program is None:
        pytest.skip("redis-cli is not installed (Debian: redis-tools)")
    command = [program, "-h", "::1", "-p", str(pair.port), "PING"]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "PONG\n"


@needs_ipv6
@pytest.mark.kafka
async def test_kafka_bootstrap_addresses(kafka: str, kafka_cluster: str) -> None:
    """The broker listens at IPv4 only, so it is reached through a proxy; both client libraries are asked."""
    broker = Address.parse(kafka)

    async def forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        from_broker, to_broker = await asyncio.open_connection(broker.host, broker.port)
        await asyncio.gather(_copy(reader, to_broker), _copy(from_broker, writer))

    async with await asyncio.start_server(forward, "::1", 0) as proxy:
        bootstrap = f"[::1]:{proxy.sockets[0].getsockname()[1]}"
        assert await Brokers(bootstrap).topic_id(wal_topic(kafka_cluster)) is not None
        log = await KafkaLog.open(bootstrap, kafka_cluster)
        assert await log.append([b"a"]) == 0
        await log.close()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(ConnectionError):
        while data := await reader.read(1 << 16):
            writer.write(data)
    writer.close()


@needs_ipv6
async def test_http_shows_addresses_with_brackets(servers: HttpServers) -> None:
    client, leader = await single_leader(servers)
    body = {"node": "n1", "resp": "[::1]:7001", "http": str(client.http), "priority": 0}
    assert (await client.ask("PUT", "/members", json=body))[0] == 202
    await until(lambda: servers.cluster.nodes["n1"].node.membership.members[0].http == client.http)
    _, answer = await client.ask("GET", "/leader")
    assert (answer["resp"], answer["http"]) == ("[::1]:7001", str(client.http))
    _, answer = await client.ask("GET", "/status")
    assert answer["members"] == [{**body, "mode": "async", "incarnation": f"{leader.member.incarnation:016x}"}]


@needs_ipv6
async def test_a_follower_registers_and_finds_another_process_with_its_id(servers: HttpServers) -> None:
    client, leader = await single_leader(servers)
    leader.node.membership_changes.add_member(Member(NodeId("n1"), Mode.ASYNC, Address("::1", 7001), client.http, 0))
    follower, own, member = await start_n2(servers)
    member = replace(member, resp=Address("::1", 7002), http=(await servers.open(follower, own=own)).http)
    await register(follower.node, own, member, "")
    await until(lambda: leader.node.membership.get(NodeId("n2")) == member)
    second, own, member = await start_n2(servers, folder="second")
    with pytest.raises(ConfigError, match=r"n2 of cluster test is already running at \[::1\]:"):
        await register(second.node, own, member, "")


@needs_ipv6
async def test_status_finds_the_cluster_by_either_address(servers: HttpServers) -> None:
    client, leader = await single_leader(servers)
    server = RedisServer(leader.node, Address("::1", 0), cluster="test", http_address=client.http)
    await server.start()
    try:
        resp = Address("::1", server.port)
        leader.node.membership_changes.add_member(Member(NodeId("n1"), Mode.ASYNC, resp, client.http, 0))
        await until(lambda: leader.node.membership.members[0].http == client.http)
        for connect in (client.http, resp):
            done = await asyncio.to_thread(CliRunner().invoke, app, ["status", "--connect", str(connect)])
            assert done.exit_code == 0, done.output
            assert str(resp) in done.output
    finally:
        await server.close()


class OneNode:
    """A cluster whose only node does not answer, at an address that Rich could take for markup."""

    def statuses(self) -> list[MemberStatus]:
        member = MemberInfo("n1", "async", Address("fd00::1", 7001), Address("fd00::1", 8001), 0)
        return [unreachable(member, "no node answers at [fd00::1]:8001")]


def test_status_shows_brackets(capsys: pytest.CaptureFixture[str]) -> None:
    print_whole(*draw(summarise(cast(ClusterAdmin, OneNode()))))
    shown = capsys.readouterr().out
    assert " [fd00::1]:7001 " in shown
    assert "n1: no node answers at [fd00::1]:8001" in shown


def test_errors_show_brackets(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.argv", ["replicator", "status", "--connect", "[fd00::1]:port"])
    monkeypatch.setenv("COLUMNS", "200")
    with pytest.raises(SystemExit):
        main()
    assert "invalid address '[fd00::1]:port'" in capsys.readouterr().err
