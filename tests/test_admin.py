"""The HTTP API of nodes that run on an in-memory log."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from replicator.address import Address
from replicator.errors import BadRequest, BrokerUnavailable, ConfigError, LogDamage
from replicator.log.memory import MemoryLog
from replicator.log.port import LogExtent
from replicator.node.change_stream import PublisherReport, PublisherState
from replicator.node.health import NodeState
from replicator.node.snapshots import ListedSnapshot, SnapshotProgress, SnapshotReport
from replicator.node.status import NodeStatus
from replicator.position import Author, NodeId, Offset
from replicator.protocol.healing import Cause, Damage, Heal
from replicator.protocol.lease import Lease
from replicator.records.types import Member, Mode, Timing
from replicator.server import registration
from replicator.server.http.app import HttpServer
from replicator.server.identity import Identity
from replicator.server.registration import register
from replicator.server.stats import Stats
from replicator.snapshots.listing import listed
from replicator.snapshots.repository import Repository
from replicator.store import snapshot
from replicator.store.snapshot import Manifest
from tests.memory_cluster import MemoryCluster, RunningNode, until
from tests.modes_cluster import STEADY

PASSWORD = "s3cret"
NOWHERE = Address("127.0.0.1", 1)  # nothing listens there
JOINING = {"node": "n9", "resp": "h9:7001", "http": "h9:8001", "priority": 9}


def identity(name: str, incarnation: int = 1) -> Identity:
    return Identity("test", Author(NodeId(name), incarnation))


FIRST = identity("n1")


class HttpClient:
    """A client of one node's HTTP server."""

    def __init__(self, server: HttpServer, session: aiohttp.ClientSession) -> None:
        self.server = server
        self._session = session

    @property
    def http(self) -> Address:
        return self.server.address

    async def ask(self, method: str, path: str, **options: Any) -> tuple[int, Any]:
        async with self._session.request(method, self.http.url(path), **options) as answer:
            return answer.status, await answer.json()

    async def head(self, path: str) -> int:
        async with self._session.head(self.http.url(path)) as answer:
            return answer.status

    async def text(self, path: str) -> str:
        async with self._session.get(self.http.url(path)) as answer:
            return await answer.text()


class FolderSnapshots:
    """`SnapshotControl` on a folder, without a schedule."""

    def __init__(self, running: RunningNode, folder: Path) -> None:
        self._machine = running.machine
        self._copies = folder / "copies"
        self._repository = Repository(str(folder / "snapshots"))
        self.repository = self._repository.url
        self.report = SnapshotReport(())
        self.progress: SnapshotProgress | None = None

    async def take(self) -> Manifest:
        manifest = await asyncio.to_thread(snapshot.take, self._machine.copy_to, self._copies)
        await asyncio.to_thread(self._repository.publish, self._copies / manifest.name, manifest, lambda size: None)
        self.report = SnapshotReport(tuple(await self.listed()))
        return manifest

    async def listed(self) -> list[ListedSnapshot]:
        return await asyncio.to_thread(listed, self._repository)


class MemoryChangeStream:
    """`ChangeStreamControl` without a stream behind it."""

    def __init__(self) -> None:
        self.report = PublisherReport(PublisherState.DISABLED)
        self.settings: dict[str, Any] | None = None

    async def describe(self) -> dict[str, Any]:
        return {"topic": "c.changes", "settings": self.settings, "progress": None}

    async def enable(self, options: Mapping[str, Any]) -> dict[str, Any]:
        self.settings = {"enabled": True, **options}
        return await self.describe()

    async def disable(self) -> dict[str, Any]:
        if self.settings is None:
            raise ConfigError("there is no change stream")
        self.settings["enabled"] = False
        return await self.describe()

    async def reset(self) -> None:
        self.settings = None


class HttpServers:
    """The HTTP servers of some nodes of a cluster."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.host = "127.0.0.1"
        self.cluster = MemoryCluster(folder)
        self.changes = MemoryChangeStream()
        self._session = aiohttp.ClientSession(headers={"Content-Type": "application/json"})
        self._servers: list[HttpServer] = []

    async def open(self, running: RunningNode | None = None, password: str = "", own: Identity = FIRST) -> HttpClient:
        server = HttpServer(own, password)
        await server.start(Address(self.host, 0))
        self._servers.append(server)
        if running is not None:
            server.attach_node(running.node, Stats(commands=7), FolderSnapshots(running, self.folder), self.changes)
        return HttpClient(server, self._session)

    async def close_server(self, index: int) -> None:
        await self._servers.pop(index).close()

    async def close(self) -> None:
        await self._session.close()
        for server in self._servers:
            await server.close()
        await self.cluster.stop()


@pytest.fixture
async def servers(tmp_path: Path) -> AsyncIterator[HttpServers]:
    servers = HttpServers(tmp_path)
    yield servers
    await servers.close()


async def single_leader(servers: HttpServers, password: str = "") -> tuple[HttpClient, RunningNode]:
    """A cluster of one node, the leader."""
    running = await servers.cluster.start("n1")
    await servers.cluster.leader()
    await until(lambda: running.node.membership.get(NodeId("n1")) is not None)
    return await servers.open(running, password), running


@pytest.mark.parametrize(("state", "health"), [(NodeState.HEALING, 200), (NodeState.FAILED, 500)])
async def test_a_process_without_a_node_reports_what_became_of_the_store(
    servers: HttpServers, state: NodeState, health: int
) -> None:
    client, _ = await single_leader(servers, "")
    client.server.heals.note(Heal(Damage(Cause.DIVERGED, "it differs", 0), "s1", 5, 7000))
    client.server.detach_node(state, "it differs. The store is being rebuilt")
    for path, status in (("/healthz", health), ("/readyz", 503), ("/leader", 503), ("/replica", 503), ("/keys/a", 503)):
        found, answer = await client.ask("GET", path)
        assert (found, path) == (status, path)
        assert status == 200 or "it differs" in answer["error"]
    _, answer = await client.ask("GET", "/status")
    assert (answer["node"]["state"], answer["node"]["trouble"]) == (state, "it differs. The store is being rebuilt")
    metrics = await client.text("/metrics")
    assert f"replicator_healing {float(state is NodeState.HEALING)}" in metrics
    assert 'replicator_heals_total{cause="diverged"} 1.0' in metrics and "replicator_serving 0.0" in metrics
    assert 'replicator_last_heal_timestamp_seconds{cause="diverged"} 7.0' in metrics
    assert 'replicator_last_heal_timestamp_seconds{cause="truncated"} 0.0' in metrics
    client.server.restart_as(identity("n1", 2))
    _, answer = await client.ask("GET", "/status")
    assert (answer["incarnation"], answer["node"]["state"]) == (f"{2:016x}", NodeState.WAITING)


async def test_a_starting_node_reports_what_it_is_waiting_for(servers: HttpServers) -> None:
    client = await servers.open()
    client.server.waiting_for, client.server.kafka_answers = "Kafka does not answer", False
    assert await client.ask("GET", "/healthz") == (200, {"id": "n1", "alive": True})
    assert await client.ask("GET", "/readyz") == (503, {"error": "Kafka does not answer"})
    assert (await client.ask("GET", "/metrics"))[0] == 503
    status, answer = await client.ask("GET", "/status")
    assert status == 200
    trouble = {"trouble": "Kafka does not answer", "kafka_answers": False}
    assert answer["node"] == {"id": "n1", "state": "waiting", **trouble}
    for method, path in (("POST", "/snapshots"), ("PUT", "/members"), ("DELETE", "/members/n9")):
        status, answer = await client.ask(method, path, json=JOINING)
        assert (status, "Kafka does not answer" in answer["error"]) == (503, True)


async def test_the_status_of_a_leader(servers: HttpServers) -> None:
    client, running = await single_leader(servers)
    offset = await running.write(b"k", b"v")
    assert (await client.ask("GET", "/readyz"))[0] == 200
    _, answer = await client.ask("GET", "/status")
    assert answer["cluster"] == "test"
    node = answer["node"]
    assert (node["id"], node["role"], node["state"], node["leader"]) == ("n1", "leader", "serving", "n1")
    assert (node["epoch"], node["entries"], node["topic_id"]) == (1, 1, servers.cluster.log.identity)
    assert node["applied_offset"] >= offset
    incarnation = f"{running.member.incarnation:016x}"
    known = {"node": "n1", "mode": "async", "resp": "n1:1", "http": "n1:2", "priority": 0, "incarnation": incarnation}
    assert answer["members"] == [known]


async def test_the_status_of_a_leader_has_the_acked_offsets_of_its_followers(servers: HttpServers) -> None:
    client, running = await single_leader(servers)
    await servers.cluster.register(await servers.cluster.start("n2", priority=1))
    offset = await running.write(b"k", b"v")
    assert await running.node.wait_acked(offset, 1, 10_000) == 1
    _, answer = await client.ask("GET", "/status")
    assert answer["acked_offsets"]["n2"] >= offset


async def test_the_metrics_are_current(servers: HttpServers) -> None:
    client, running = await single_leader(servers)
    await running.write(b"k", b"v")
    lines = (await client.text("/metrics")).splitlines()
    assert "replicator_leader 1.0" in lines
    assert "replicator_serving 1.0" in lines
    assert "replicator_store_entries 1.0" in lines
    assert "replicator_lag_records 0.0" in lines
    assert "replicator_commands_total 7.0" in lines
    assert 'replicator_writes_total{outcome="ok"} 0.0' in lines


async def test_the_sizes_of_store_log_and_newest_snapshot(servers: HttpServers) -> None:
    client, running = await single_leader(servers)
    await running.write(b"k", b"v" * 10_000)
    assert "replicator_snapshots 0.0" in await client.text("/metrics")
    _, taken = await client.ask("POST", "/snapshots")
    lines = dict(line.rsplit(" ", 1) for line in (await client.text("/metrics")).splitlines() if line[0] != "#")
    assert float(lines["replicator_store_size_bytes"]) == (running.machine.folder / "data.mdb").stat().st_size > 10_000
    assert float(lines["replicator_log_size_bytes"]) > 10_000
    assert float(lines["replicator_log_start_offset"]) == 0
    assert float(lines["replicator_snapshots"]) == 1
    assert float(lines["replicator_snapshot_size_bytes"]) == taken["bytes"]
    assert float(lines["replicator_snapshot_offset"]) == taken["offset"]
    assert float(lines["replicator_snapshot_timestamp_seconds"]) == taken["taken_at_ms"] / 1000


async def test_the_status_has_the_sizes_of_store_and_log(servers: HttpServers) -> None:
    client, running = await single_leader(servers)
    await running.write(b"k", b"v" * 10_000)
    status = (await client.ask("GET", "/status"))[1]
    assert status["node"]["store_bytes"] == (running.machine.folder / "data.mdb").stat().st_size
    assert status["log_bytes"] == (await servers.cluster.log.extent()).size_bytes


async def test_the_status_is_answered_without_the_size_of_the_log_if_kafka_does_not_report_it(
    servers: HttpServers, monkeypatch: pytest.MonkeyPatch
) -> None:
    client, running = await single_leader(servers)

    async def extent() -> LogExtent:
        raise BrokerUnavailable("no broker answers")

    monkeypatch.setattr(running.node._context.log, "extent", extent)
    status = (await client.ask("GET", "/status"))[1]
    assert status["log_bytes"] is None and status["node"]["state"] == "serving"
    assert "replicator_log_start_offset" not in await client.text("/metrics")


async def test_a_node_that_has_failed_is_neither_healthy_nor_ready(servers: HttpServers) -> None:
    client, running = await single_leader(servers)
    running.node._fail(LogDamage("the log was truncated: restore it"))
    assert await client.ask("GET", "/healthz") == (500, {"error": "the log was truncated: restore it"})
    status, answer = await client.ask("GET", "/readyz")
    assert (status, answer["error"]) == (503, "failed. the log was truncated: restore it")
    assert (await client.ask("GET", "/status"))[1]["node"]["state"] == NodeState.FAILED


async def test_a_member_is_added_moved_and_removed(servers: HttpServers) -> None:
    client, running = await single_leader(servers)
    node = running.node
    assert await client.ask("PUT", "/members", json=JOINING) == (202, {"accepted": "n9"})
    await until(lambda: node.membership.get(NodeId("n9")) is not None)
    assert (await client.ask("PUT", "/members", json={**JOINING, "resp": "other:1"}))[0] == 202
    moved = Member(NodeId("n9"), Mode.ASYNC, Address("other", 1), Address("h9", 8001), 9)
    await until(lambda: node.membership.get(NodeId("n9")) == moved)
    assert await client.ask("DELETE", "/members/n9") == (202, {"accepted": "n9"})
    await until(lambda: node.membership.get(NodeId("n9")) is None)


async def test_a_follower_answers_with_the_address_of_the_leader(servers: HttpServers) -> None:
    await single_leader(servers)
    follower = await servers.cluster.start("n2", priority=1)
    await until(lambda: follower.node.leading_member is not None)
    client = await servers.open(follower)
    for method, path, body in (
        ("PUT", "/members", JOINING),
        ("DELETE", "/members/n1", JOINING),
        ("PUT", "/timing", {"step_ms": 9}),
    ):
        status, answer = await client.ask(method, path, json=body)
        assert (status, answer["leader"]) == (409, "n1:2")


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"{", "not valid JSON"),
        (b"[]", "not a JSON object"),
        (b"{}", "send {"),
        (b'{"node": "a/b", "resp": "h:1", "http": "h:2", "priority": 1}', "letters"),
        (b'{"node": "n9", "resp": "here", "http": "h:2", "priority": 1}', "invalid address 'here'"),
        (b'{"node": "n9", "resp": "h:1", "http": "::1:2", "priority": 1}', "write an IPv6 host in brackets"),
        (b'{"node": "n9", "resp": "h:1", "http": "h:2", "priority": "low"}', "send {"),
    ],
)
async def test_an_invalid_member_is_refused(servers: HttpServers, body: bytes, message: str) -> None:
    client, running = await single_leader(servers)
    status, answer = await client.ask("PUT", "/members", data=body)
    assert status == 400
    assert message in answer["error"]
    assert [member.node for member in running.node.membership.members] == ["n1"]


async def test_other_invalid_requests(servers: HttpServers) -> None:
    client, _ = await single_leader(servers)
    assert (await client.ask("DELETE", "/members/n9"))[0] == 400
    status, answer = await client.ask("DELETE", "/members/n1")
    assert (status, "n1 is the leader" in answer["error"]) == (400, True)
    status, answer = await client.ask("GET", "/nowhere")
    assert (status, "/healthz, /keys/{key}, " in answer["error"]) == (404, True)
    assert (await client.ask("POST", "/status"))[0] == 405
    assert (await client.ask("PUT", "/members", data=b" " * (65 << 10)))[0] == 413


@pytest.mark.parametrize("given", ["", "Bearer wrong", PASSWORD, "Bearer ščř"])
async def test_changes_need_the_password(servers: HttpServers, given: str) -> None:
    client, running = await single_leader(servers, PASSWORD)
    for method, path in (("PUT", "/members"), ("DELETE", "/members/n9"), ("POST", "/snapshots")):
        status, answer = await client.ask(method, path, json=JOINING, headers={"Authorization": given})
        assert (status, "Bearer" in answer["error"]) == (401, True)
    assert not (servers.folder / "snapshots").exists()
    assert (await client.ask("GET", "/status"))[0] == 200
    right = {"Authorization": f"Bearer {PASSWORD}"}
    assert (await client.ask("PUT", "/members", json=JOINING, headers=right))[0] == 202
    await until(lambda: running.node.membership.get(NodeId("n9")) is not None)


async def test_a_snapshot_is_taken_and_listed(servers: HttpServers) -> None:
    client, running = await single_leader(servers)
    await running.write(b"k", b"v")
    assert (await client.ask("GET", "/snapshots"))[1]["snapshots"] == []
    status, taken = await client.ask("POST", "/snapshots")
    assert (status, taken["entries"], taken["digest"]) == (201, 1, running.node.status().digest)
    _, listed = await client.ask("GET", "/snapshots")
    assert [it["name"] for it in listed["snapshots"]] == [taken["name"]]
    [it] = listed["snapshots"]
    assert it == {
        **{name: value for name, value in taken.items() if name != "repository"},
        "verified_at_ms": None,
        "failure": "",
    }
    assert (Path(taken["repository"]) / taken["name"] / "manifest.json").exists()
    assert await client.ask("GET", "/snapshots/progress") == (200, {"progress": None})


async def test_an_address_that_is_in_use(servers: HttpServers) -> None:
    first = await servers.open()
    with pytest.raises(ConfigError, match=r"cannot listen at .*: the address is in use. Choose another with --http"):
        await HttpServer(identity("n2"), "").start(first.http)


async def leader_n1(servers: HttpServers, password: str = "") -> RunningNode:
    """n1 leads, and its HTTP address is known."""
    leader = await servers.cluster.start("n1")
    await servers.cluster.leader()
    client = await servers.open(leader, password)
    await until(lambda: leader.node.is_registered)  # it registers itself
    leader.node.membership_changes.add_member(Member(NodeId("n1"), Mode.ASYNC, Address("n1", 1), client.http, 0))
    return leader


async def start_n2(servers: HttpServers, folder: str = "") -> tuple[RunningNode, Identity, Member]:
    """A process of n2, how it reports itself, and as what it is to be registered."""
    running = await servers.cluster.start("n2", priority=1, folder=folder)
    return running, Identity("test", running.member.author), replace(running.member, http=NOWHERE)


async def test_a_follower_registers_itself_and_its_new_address_after_a_restart(servers: HttpServers) -> None:
    leader = await leader_n1(servers, PASSWORD)
    for resp in (NOWHERE, Address("elsewhere", 1)):
        follower, identity, member = await start_n2(servers)
        member = replace(member, resp=resp)
        await register(follower.node, identity, member, PASSWORD)
        await until(lambda member=member: leader.node.membership.get(NodeId("n2")) == member)  # type: ignore[misc]
        await follower.stop()


async def test_a_node_with_another_password_reports_that(
    servers: HttpServers, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registration, "REGISTRATION_RETRY_S", 0.001)
    await leader_n1(servers, PASSWORD)
    follower, identity, member = await start_n2(servers)
    refusals: list[str] = []
    note = follower.node.note_registration

    def noted(refusal: str) -> None:
        refusals.append(refusal)
        note(refusal)

    monkeypatch.setattr(follower.node, "note_registration", noted)
    registering = asyncio.create_task(register(follower.node, identity, member, "wrong"))
    await until(lambda: len(refusals) > 3)
    assert "another password than n1" in follower.node.status().trouble
    assert caplog.text.count("another password than n1") == 1
    registering.cancel()
    await register(follower.node, identity, member, PASSWORD)
    assert not follower.node.status().trouble


@pytest.mark.parametrize("path", ["/status", "/metrics"])
@pytest.mark.parametrize("moved", [True, False])
async def test_a_status_that_is_asked_for_while_the_store_is_rebuilt(
    servers: HttpServers, monkeypatch: pytest.MonkeyPatch, path: str, moved: bool
) -> None:
    leader = await leader_n1(servers)
    client = await servers.open(leader)
    ask = leader.node.current_status

    async def detached_meanwhile() -> NodeStatus:
        status = await ask()
        client.server.detach_node(NodeState.HEALING, "the store differs")
        if moved:
            raise FileNotFoundError(2, "no such file")
        return status

    monkeypatch.setattr(leader.node, "current_status", detached_meanwhile)
    assert "healing" in await client.text(path)


async def test_a_process_of_another_timeline_is_not_registered(servers: HttpServers) -> None:
    """It is of the cluster from which this one was restored, and finds a leader at the address that it knows."""
    leader = await leader_n1(servers)
    client, own = await servers.open(leader), leader.node.status().timeline
    fields = {
        "node": "n2",
        "resp": "n2:1",
        "http": "n2:2",
        "priority": 1,
        "incarnation": "7" * 16,
        "replaces": "0" * 16,
    }
    status, reply = await client.ask("PUT", "/members", json={**fields, "timeline": "ab" * 16})
    assert status == 400 and f"this cluster is on timeline {own}: it was restored" in reply["error"]
    assert leader.node.membership.get(NodeId("n2")) is None
    status, _ = await client.ask("PUT", "/members", json={**fields, "timeline": own})
    assert status == 202


async def test_a_second_process_exits_while_the_first_one_answers(servers: HttpServers) -> None:
    leader = await leader_n1(servers)
    first = await servers.open(own=identity("n2", 7))
    leader.node.membership_changes.register(
        Member(NodeId("n2"), Mode.ASYNC, Address("n2", 1), first.http, 1, incarnation=7), replaces=0
    )
    second, own, member = await start_n2(servers)
    with pytest.raises(ConfigError, match=f"n2 of cluster test is already running at {first.http}"):
        await register(second.node, own, member, "")
    known = leader.node.membership.get(NodeId("n2"))
    assert known is not None and (known.http, known.incarnation) == (first.http, 7)


async def test_a_leader_that_does_not_answer_is_logged_once(
    servers: HttpServers, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(registration, "REGISTRATION_RETRY_S", 0.001)
    leader = await leader_n1(servers)
    await servers.close_server(0)
    second, own, member = await start_n2(servers)
    asked, ask = 0, second.node.ask_to_register

    def counted() -> int:
        nonlocal asked
        asked += 1
        return ask()

    monkeypatch.setattr(second.node, "ask_to_register", counted)
    with caplog.at_level(logging.INFO, registration.logger.name):
        registering = asyncio.create_task(register(second.node, own, member, ""))
        await until(lambda: asked >= 5)
        registering.cancel()
    [message] = [it.getMessage() for it in caplog.records if it.name == registration.logger.name]
    assert message.startswith(f"asking the leader to register this node fails: {leader.member.node} does not answer at")


@pytest.mark.parametrize(
    "there", [identity("n3", 8), identity("n2", 8), None], ids=["another node", "another process", "no answer"]
)
async def test_a_node_moves_if_the_process_before_no_longer_answers(
    servers: HttpServers, there: Identity | None
) -> None:
    leader = await leader_n1(servers)
    old_http = (await servers.open(own=there)).http if there else Address("127.0.0.1", 2)
    leader.node.membership_changes.register(
        Member(NodeId("n2"), Mode.ASYNC, Address("n2", 1), old_http, 1, incarnation=7), replaces=0
    )
    second, own, member = await start_n2(servers)
    await register(second.node, own, member, "")
    assert second.node.membership.get(NodeId("n2")) == member


class GatedLog(MemoryLog):
    """While it is shut, each append waits until it is let through."""

    def __init__(self) -> None:
        super().__init__()
        self.shut = False
        self.waiting = 0
        self._passes = asyncio.Semaphore(0)

    def let_through(self) -> None:
        self._passes.release()

    async def append(self, payloads: Sequence[bytes]) -> Offset:
        if self.shut:
            self.waiting += 1
            await self._passes.acquire()
            self.waiting -= 1
        return await super().append(payloads)


async def test_members_that_are_added_concurrently_are_all_kept(servers: HttpServers) -> None:
    servers.cluster.timing = Timing(heartbeat_ms=60_000, lease_ms=120_000, election_ms=150_000, sync_ms=120_000)
    log = GatedLog()
    running = await servers.cluster.start("n1", log)
    members = [Member(NodeId(name), Mode.ASYNC, Address(name, 1), Address(name, 2), 1) for name in ("n2", "n3", "n4")]
    node = running.node
    await until(lambda: node.membership.get(NodeId("n1")) is not None)
    log.shut = True
    node.membership_changes.add_member(members[0])
    await until(lambda: log.waiting == 1)
    node.membership_changes.add_member(members[1])
    log.let_through()
    await until(lambda: node.membership.get(NodeId("n2")) is not None and log.waiting == 1)
    node.membership_changes.add_member(members[2])  # the record of the second is still in flight
    log.let_through()
    log.let_through()
    await until(lambda: node.membership.get(NodeId("n4")) is not None)
    assert {member.node for member in node.membership.members} == {"n1", "n2", "n3", "n4"}


async def test_the_timing_is_shown_and_changed(servers: HttpServers) -> None:
    servers.cluster.timing = STEADY
    client, running = await single_leader(servers)
    await until(lambda: running.node.logged_timing == STEADY)
    assert (await client.ask("GET", "/status"))[1]["timing"] == asdict(STEADY)
    assert await client.ask("PUT", "/timing", json={"step_ms": 9}) == (202, {"accepted": "step_ms"})
    await until(lambda: running.node.logged_timing == replace(STEADY, step_ms=9))
    assert (await client.ask("GET", "/status"))[1]["timing"] == {**asdict(STEADY), "step_ms": 9}
    for settings, status, words in (
        ({"step_ms": "9"}, 400, "step_ms is '9', but must be an integer"),
        ({"step_ms": True}, 400, "must be an integer"),
        ({"pace_ms": 9}, 400, "unknown setting timing.pace_ms"),
        ({"step_ms": 10**20}, 400, "at most"),
        ({"election_ms": 2}, 400, "must be at least lease_ms x 1.1"),
        ({"step_ms": 10}, 503, "may still be held: try again after"),
    ):
        found, answer = await client.ask("PUT", "/timing", json=settings)
        assert (found, words in answer["error"]) == (status, True)


async def test_a_node_that_is_not_a_member_cannot_be_removed(servers: HttpServers) -> None:
    _, running = await single_leader(servers)
    with pytest.raises(BadRequest, match="n9 is not a member"):
        running.node.membership_changes.remove_member(NodeId("n9"))


async def test_a_load_balancer_finds_the_leader_and_the_replicas(servers: HttpServers) -> None:
    client, leader = await single_leader(servers)
    follower = await servers.cluster.start("n2", priority=1)
    await servers.cluster.caught_up()
    other = await servers.open(follower)
    await until(lambda: leader.node.lease_left_ms > 0 and follower.node.state is NodeState.SERVING)
    named = {"state": "serving", "leader": "n1", "resp": "n1:1", "http": "n1:2"}
    assert await client.ask("GET", "/leader") == (200, {"id": "n1", "role": "leader", **named})
    assert await client.ask("GET", "/replica") == (503, {"id": "n1", "role": "leader", **named})
    assert await other.ask("GET", "/leader") == (503, {"id": "n2", "role": "follower", **named})
    assert await other.ask("GET", "/replica") == (200, {"id": "n2", "role": "follower", **named})
    assert [await it.head(path) for it in (client, other) for path in ("/leader", "/replica")] == [200, 503, 503, 200]


async def test_a_node_that_cannot_serve_fails_both_health_checks_of_a_load_balancer(servers: HttpServers) -> None:
    client, leader = await single_leader(servers)
    follower = await servers.cluster.start("n2", priority=1)
    other, none = await servers.open(follower), await servers.open()
    await until(lambda: follower.node.state is NodeState.SERVING)
    leader.node._context.roles.lease = Lease()  # it has expired
    follower.node._fail(LogDamage("the log was truncated: restore it"))
    assert [await it.head(path) for it in (client, other, none) for path in ("/leader", "/replica")] == [503] * 6
