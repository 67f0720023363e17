"""Nodes that answer clients of Redis Sentinel: who leads, who follows, and what happens when that changes."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import hiredis
import pytest
import redis
from redis.backoff import ConstantBackoff
from redis.retry import Retry
from redis.sentinel import MasterNotFoundError, Sentinel

from replicator.local.ports import random_free_ports
from replicator.node.health import CatchingUp, NodeState
from replicator.protocol.lease import Lease
from replicator.records.types import Timing
from tests.redis_fixture import CLUSTER, ServerThread, real_redis
from tests.test_redis_differential import Raw
from tests.test_redis_server import wait_for

NAME = CLUSTER.encode()
SLOW_ELECTION = Timing(election_ms=600_000)


@pytest.fixture
def trio(tmp_path: Path) -> Iterator[ServerThread]:
    thread = ServerThread(tmp_path, nodes=3)
    yield thread
    thread.close()


@pytest.fixture(scope="module")
def calm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerThread]:
    """Three nodes; n1 leads."""
    thread = ServerThread(tmp_path_factory.mktemp("calm"), nodes=3)
    yield thread
    thread.close()


def address(thread: ServerThread, index: int) -> tuple[str, int]:
    return "127.0.0.1", thread.servers[index].port


def followed(thread: ServerThread, **options: Any) -> Any:
    """What users of redis-py make."""
    return Sentinel([address(thread, it) for it in range(len(thread.servers))], **options)  # type: ignore[no-untyped-call]


def sentinel_client(thread: ServerThread, index: int = 0) -> Any:
    return thread.client(index, decode_responses=True)


@pytest.mark.parametrize("protocol", [2, 3])
@pytest.mark.parametrize("index", [0, 1, 2])
def test_every_node_names_the_leader_and_the_others(calm: ServerThread, index: int, protocol: int) -> None:
    client = calm.client(index, protocol=protocol, decode_responses=True)
    assert client.sentinel_get_master_addr_by_name(CLUSTER) == address(calm, 0)
    master = client.sentinel_master(CLUSTER)
    assert client.sentinel_masters()[CLUSTER]["runid"] == master["runid"]
    assert (master["name"], master["ip"], master["port"]) == (CLUSTER, *address(calm, 0))
    assert (master["is_master"], master["is_sdown"], master["is_odown"]) == (True, False, False)
    assert (master["num-slaves"], master["num-other-sentinels"], master["quorum"]) == (2, 2, 1)
    replicas = client.sentinel_slaves(CLUSTER)
    assert {(it["ip"], it["port"]) for it in replicas} == {address(calm, 1), address(calm, 2)}
    assert {(it["is_slave"], it["is_sdown"], it["master-port"]) for it in replicas} == {(True, False, calm.port)}
    others = client.sentinel_sentinels(CLUSTER)
    assert {(it["ip"], it["port"]) for it in others} == {address(calm, it) for it in range(3) if it != index}
    ids = {it["runid"] for it in others}
    assert client.execute_command("SENTINEL", "MYID") not in ids and len(ids) == 2
    quorum = Raw(calm.servers[index].port, protocol)
    assert quorum.ask(b"SENTINEL", b"CKQUORUM", NAME).startswith(b"OK 3 usable Sentinels. Quorum and failover")
    quorum.close()
    client.close()


def test_errors_of_invalid_requests_are_those_of_redis(calm: ServerThread, tmp_path: Path) -> None:
    with real_sentinel(tmp_path) as port:
        for protocol in (2, 3):
            real, ours = Raw(port, protocol), Raw(calm.port, protocol)
            for line in (
                [b"SENTINEL"],
                [b"SENTINEL", b"nonsense", b"x"],
                [b"SENTINEL", b"get-master-addr-by-name", b"other"],
                [b"SENTINEL", b"get-master-addr-by-name"],
                [b"SENTINEL", b"masters", b"x"],
                [b"sentinel", b"is-master-down-by-addr", b"10.9.9.9", b"1", b"0", b"*"],
                [b"sentinel", b"is-master-down-by-addr", b"10.9.9.9", b"1", b"zero", b"*"],
                [b"sentinel", b"is-master-down-by-addr", b"10.9.9.9"],
                *([b"SENTINEL", word] for word in (b"master", b"replicas", b"slaves", b"sentinels", b"ckquorum")),
                *([b"SENTINEL", word, b"?"] for word in (b"master", b"replicas", b"slaves", b"sentinels", b"ckquorum")),
            ):
                expected, got = real.ask(*line), ours.ask(*line)
                assert (type(got), str(got)) == (type(expected), str(expected)), line
            real.close()
            ours.close()


@pytest.mark.parametrize("protocol", [2, 3])
def test_answers_have_the_fields_of_a_real_sentinel(calm: ServerThread, tmp_path: Path, protocol: int) -> None:
    with real_sentinel(tmp_path) as port:
        real, ours = Raw(port, protocol), Raw(calm.port, protocol)
        for word in (b"MASTER", b"MASTERS", b"REPLICAS", b"SENTINELS"):
            line = [b"SENTINEL", word] if word == b"MASTERS" else [b"SENTINEL", word, NAME]
            expected, got = (_first(connection.ask(*line)) for connection in (real, ours))
            assert type(got) is type(expected)
            assert _names(got) == _names(expected)
        for line in ([b"SENTINEL", b"MYID"], [b"SENTINEL", b"GET-MASTER-ADDR-BY-NAME", NAME]):
            expected, got = real.ask(*line), ours.ask(*line)
            assert (type(got), len(got)) == (type(expected), len(expected))
        real.close()
        ours.close()


def _first(reply: Any) -> Any:
    return reply[0] if isinstance(reply, list) and isinstance(reply[0], list | dict) else reply


def _names(fields: Any) -> list[bytes]:
    """As told of a healthy instance."""
    names = list(fields) if isinstance(fields, dict) else fields[::2]
    return [name for name in names if name not in (b"s-down-time", b"o-down-time")]


@contextmanager
def real_sentinel(folder: Path) -> Iterator[int]:
    """The port of a Redis Sentinel of our own that watches a master with a replica, beside another sentinel."""
    program = shutil.which("redis-server")
    if program is None:
        pytest.skip("redis-server is not installed (Debian: redis-server)")
    watchers: list[subprocess.Popen[bytes]] = []
    ports = random_free_ports(2)
    with real_redis(folder) as master, real_redis(folder, "--replicaof", "127.0.0.1", str(master)):
        try:
            for port in ports:
                settings = folder / f"sentinel-{port}.conf"
                settings.write_text(
                    f"port {port}\nbind 127.0.0.1\ndir {folder}\nsentinel monitor {CLUSTER} 127.0.0.1 {master} 2\n"
                )
                watchers.append(subprocess.Popen([program, settings, "--sentinel"], stdout=subprocess.DEVNULL))
            with redis.Redis(port=ports[0], retry=Retry(ConstantBackoff(0.05), 100), protocol=2) as client:
                wait_for(lambda: _knows_all(client.execute_command("SENTINEL MASTER", CLUSTER)))
            yield ports[0]
        finally:
            for watcher in watchers:
                watcher.terminate()
                watcher.wait()


def _knows_all(master: dict[str, Any]) -> bool:
    return (master["num-slaves"], master["num-other-sentinels"]) == (1, 1)


def test_a_node_that_has_not_caught_up_names_no_leader(trio: ServerThread) -> None:
    node = trio.node(2).node
    node._health.health = CatchingUp()
    assert node.state is NodeState.CATCHING_UP
    client = sentinel_client(trio, 2)
    assert client.sentinel_get_master_addr_by_name(CLUSTER) is None
    master = client.sentinel_master(CLUSTER)
    assert (master["is_sdown"], master["is_odown"], master["is_disconnected"]) == (True, True, True)
    assert {it["port"]: it["is_sdown"] for it in client.sentinel_slaves(CLUSTER)} == {
        server.port: server is trio.servers[2] for server in trio.servers
    }
    with pytest.raises(redis.ResponseError, match="NOQUORUM 0 usable"):
        client.execute_command("SENTINEL CKQUORUM", CLUSTER)


def test_a_leader_whose_heartbeat_timed_out_is_reported_as_down(tmp_path: Path) -> None:
    thread = ServerThread(tmp_path, nodes=2, timing=SLOW_ELECTION)
    client = thread.client(1, protocol=2)
    port = str(thread.servers[0].port)
    down = ("SENTINEL", "IS-MASTER-DOWN-BY-ADDR", "127.0.0.1", port, 0, "*")
    assert client.execute_command(*down) == [0, b"*", 0]
    thread.kill(0)
    wait_for(lambda: bool(client.sentinel_master(CLUSTER)["is_sdown"]))
    assert client.sentinel_master(CLUSTER)["flags"] == "s_down,o_down,master"
    assert client.execute_command(*down) == [1, b"*", 0]
    with pytest.raises(MasterNotFoundError):
        followed(thread).discover_master(CLUSTER)
    thread.close()


@pytest.mark.parametrize("asked", [0, 1])
def test_a_replica_that_is_dead_is_not_handed_out_by_any_node(trio: ServerThread, asked: int) -> None:
    client, leader = trio.client(asked, protocol=2), trio.client(0)
    wait_for(lambda: int(leader.info("replication")["connected_slaves"]) == 2)
    online = leader.info("replication")["slave1"]
    assert online["state"] == "online" and online["lag"] <= 1
    trio.kill(2)
    wait_for(lambda: any(it["is_sdown"] for it in client.sentinel_slaves(CLUSTER)))
    flags = {it["port"]: (it["flags"], it["master-link-status"]) for it in client.sentinel_slaves(CLUSTER)}
    second, third = trio.servers[1].port, trio.servers[2].port
    assert flags == {second: ("slave", "ok"), third: ("s_down,slave,disconnected", "err")}
    assert Sentinel([address(trio, asked)]).discover_slaves(CLUSTER) == [("127.0.0.1", second)]  # type: ignore[no-untyped-call]
    shown = leader.info("replication")
    assert (shown["connected_slaves"], shown["slave0"]["port"], "slave1" in shown) == (1, second, False)
    assert [it[1] for it in leader.role()[2]] == [b"%d" % second]


def test_a_follower_that_cannot_ask_the_leader_hands_out_all_replicas(tmp_path: Path) -> None:
    thread = ServerThread(tmp_path, nodes=3, timing=SLOW_ELECTION)
    thread.run(thread.servers[0].close())
    client = thread.client(1, protocol=2)
    assert [it["flags"] for it in client.sentinel_slaves(CLUSTER)] == ["slave", "slave"]
    thread.close()


def test_a_follower_reports_that_it_has_lost_the_leader(tmp_path: Path) -> None:
    thread = ServerThread(tmp_path, nodes=2, timing=SLOW_ELECTION)
    client = thread.client(1)
    wait_for(lambda: client.info("replication")["master_last_io_seconds_ago"] == 0)
    wait_for(lambda: client.role()[3] == b"connected")
    thread.kill(0)
    wait_for(lambda: client.info("replication")["master_link_status"] == "down")
    seen = client.info("replication")
    assert (seen["master_last_io_seconds_ago"], seen["slave_repl_offset"]) == (-1, seen["master_repl_offset"])
    assert seen["master_link_down_since_seconds"] >= 0
    assert client.role()[3] == b"connect"
    thread.close()


def test_a_leader_without_a_lease_reports_itself_as_down(trio: ServerThread) -> None:
    leader = trio.node(0).node
    client = sentinel_client(trio)
    assert not client.sentinel_master(CLUSTER)["is_sdown"]
    leader._context.roles.lease = Lease(serve_from_ms=float("inf"))
    assert client.sentinel_master(CLUSTER)["is_sdown"]


@pytest.mark.parametrize("protocol", [2, 3])
def test_redis_py_follows_the_leader(trio: ServerThread, protocol: int) -> None:
    sentinel = followed(trio, min_other_sentinels=2, protocol=protocol)
    master, replica = sentinel.master_for(CLUSTER), sentinel.slave_for(CLUSTER)
    assert master.set("a", "1") and master.role()[0] == b"master"
    assert replica.role()[0] == b"slave"
    trio.claim_leadership(1)
    with pytest.raises(redis.ConnectionError, match="previous master is now a slave"):
        master.set("a", "2")
    assert master.set("a", "2")
    assert sentinel.discover_master(CLUSTER) == address(trio, 1)
    trio.kill(1)
    wait_for(lambda: _succeeds(master.set, "a", "3"))
    assert sentinel.discover_master(CLUSTER) in (address(trio, 0), address(trio, 2))
    wait_for(lambda: _succeeds(lambda: replica.get("a") == b"3"))


def _succeeds(command: Callable[..., Any], *args: str) -> bool:
    try:
        return bool(command(*args))
    except redis.ConnectionError:
        return False


def test_a_replica_names_the_leader(trio: ServerThread) -> None:
    with pytest.raises(redis.ReadOnlyError) as refused:
        trio.client(1).set("a", "1")
    port = trio.servers[0].port
    assert str(refused.value) == f"You can't write against a read only replica. The leader is n1, at 127.0.0.1:{port}"


def test_the_password_is_asked_of_sentinel_clients_too(serve: Callable[..., ServerThread]) -> None:
    thread = serve(password="sesame")
    refused = Raw(thread.port, 2)
    for line in ([b"SENTINEL", b"MASTERS"], [b"SUBSCRIBE", b"+switch-master"]):
        reply = refused.ask(*line)
        assert isinstance(reply, hiredis.ReplyError) and str(reply).startswith("NOAUTH")
    refused.close()
    kwargs = {"password": "sesame"}
    sentinel = followed(thread, sentinel_kwargs=kwargs, **kwargs)
    assert sentinel.master_for(CLUSTER).set("a", "1")
