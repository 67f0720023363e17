"""The HTTP side of nodes that run on a log in memory."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from replicator.address import Address
from replicator.errors import BadRequest, ConfigError, LogDamage
from replicator.log.memory import MemoryLog
from replicator.node.health import NodeState
from replicator.position import Author, NodeId, Offset
from replicator.protocol.lease import Lease
from replicator.protocol.timing import Timing
from replicator.records.types import Member, Mode
from replicator.server.http.app import Admin, Snapshots
from replicator.server.identity import Identity
from replicator.server.registration import enrol
from replicator.server.stats import Stats
from replicator.store import snapshot
from tests.memory_cluster import MemoryCluster, RunningNode, until

PASSWORD = "s3cret"
NOWHERE = Address("127.0.0.1", 1)  # where nobody listens
JOINING = {"node": "n9", "resp": "h9:7001", "http": "h9:8001", "priority": 9}


def identity(name: str, incarnation: int = 1, cluster: str = "test") -> Identity:
    return Identity(cluster, Author(NodeId(name), incarnation))


FIRST = identity("n1")


class Site:
    """A node's HTTP side, and a client of it."""

    def __init__(self, admin: Admin, session: aiohttp.ClientSession) -> None:
        self.admin = admin
        self._session = session

    @property
    def http(self) -> Address:
        return self.admin.address

    async def ask(self, method: str, path: str, **options: Any) -> tuple[int, Any]:
        async with self._session.request(method, self.http.url(path), **options) as answer:
            return answer.status, await answer.json()

    async def head(self, path: str) -> int:
        async with self._session.head(self.http.url(path)) as answer:
            return answer.status

    async def text(self, path: str) -> str:
        async with self._session.get(self.http.url(path)) as answer:
            return await answer.text()


class Sites:
    """A cluster with the HTTP sides of some of its nodes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.host = "127.0.0.1"
        self.cluster = MemoryCluster(folder)
        self._session = aiohttp.ClientSession()
        self._admins: list[Admin] = []

    async def open(self, running: RunningNode | None = None, password: str = "", who: Identity = FIRST) -> Site:
        admin = Admin(who, password)
        await admin.start(Address(self.host, 0))
        self._admins.append(admin)
        if running is not None:
            admin.show(running.node, Stats(commands=7), self._snapshots(running))
        return Site(admin, self._session)

    def _snapshots(self, running: RunningNode) -> Snapshots:
        folder = self.folder / "snapshots"

        async def take() -> snapshot.Manifest:
            return await asyncio.to_thread(snapshot.take, running.machine, folder)

        return Snapshots(str(folder), take, lambda: snapshot.listed(folder))

    async def close(self) -> None:
        await self._session.close()
        for admin in self._admins:
            await admin.close()
        await self.cluster.stop()


@pytest.fixture
async def sites(tmp_path: Path) -> AsyncIterator[Sites]:
    sites = Sites(tmp_path)
    yield sites
    await sites.close()


async def led(sites: Sites, password: str = "") -> tuple[Site, RunningNode]:
    """A cluster of one node, which leads."""
    running = await sites.cluster.start("n1")
    await sites.cluster.leader()
    await until(lambda: running.node.membership.get(NodeId("n1")) is not None)
    return await sites.open(running, password), running


async def test_before_there_is_a_node_it_says_what_the_process_waits_for(sites: Sites) -> None:
    site = await sites.open()
    site.admin.waiting_for = "Kafka does not answer"
    assert await site.ask("GET", "/healthz") == (200, {"id": "n1", "alive": True})
    assert await site.ask("GET", "/readyz") == (503, {"error": "Kafka does not answer"})
    assert (await site.ask("GET", "/metrics"))[0] == 503
    status, answer = await site.ask("GET", "/status")
    assert status == 200
    assert answer["node"] == {"id": "n1", "state": "waiting", "trouble": "Kafka does not answer"}
    for method, path in (("POST", "/snapshots"), ("PUT", "/members"), ("DELETE", "/members/n9")):
        status, answer = await site.ask(method, path, json=JOINING)
        assert (status, "Kafka does not answer" in answer["error"]) == (503, True)


async def test_the_status_of_a_leader(sites: Sites) -> None:
    site, running = await led(sites)
    offset = await running.write(b"k", b"v")
    assert (await site.ask("GET", "/readyz"))[0] == 200
    _, answer = await site.ask("GET", "/status")
    assert answer["cluster"] == "test"
    node = answer["node"]
    assert (node["id"], node["role"], node["state"], node["leader"]) == ("n1", "leader", "serving", "n1")
    assert (node["epoch"], node["entries"], node["topic_id"]) == (1, 1, sites.cluster.log.identity)
    assert node["applied_offset"] >= offset
    assert answer["members"] == [{"node": "n1", "mode": "async", "resp": "n1:1", "http": "n1:2", "priority": 0}]


async def test_the_leader_tells_how_far_its_followers_are(sites: Sites) -> None:
    site, running = await led(sites)
    await sites.cluster.start("n2", priority=1)
    offset = await running.write(b"k", b"v")
    assert await running.node.wait_acked(offset, 1, 10_000) == 1
    _, answer = await site.ask("GET", "/status")
    assert answer["acked_offsets"]["n2"] >= offset


async def test_the_metrics_are_those_of_this_moment(sites: Sites) -> None:
    site, running = await led(sites)
    await running.write(b"k", b"v")
    lines = (await site.text("/metrics")).splitlines()
    assert "replicator_leader 1.0" in lines
    assert "replicator_serving 1.0" in lines
    assert "replicator_entries 1.0" in lines
    assert "replicator_lag_records 0.0" in lines
    assert "replicator_commands_total 7.0" in lines
    assert 'replicator_writes_total{outcome="ok"} 0.0' in lines


async def test_a_node_that_has_failed_is_neither_healthy_nor_ready(sites: Sites) -> None:
    site, running = await led(sites)
    running.node._fail(LogDamage("the log has lost its tail: restore it"))
    assert await site.ask("GET", "/healthz") == (500, {"error": "the log has lost its tail: restore it"})
    status, answer = await site.ask("GET", "/readyz")
    assert (status, answer["error"]) == (503, "failed. the log has lost its tail: restore it")
    assert (await site.ask("GET", "/status"))[1]["node"]["state"] == NodeState.FAILED


async def test_a_member_joins_moves_and_leaves(sites: Sites) -> None:
    site, running = await led(sites)
    node = running.node
    assert await site.ask("PUT", "/members", json=JOINING) == (202, {"accepted": "n9"})
    await until(lambda: node.membership.get(NodeId("n9")) is not None)
    assert (await site.ask("PUT", "/members", json={**JOINING, "resp": "other:1"}))[0] == 202
    moved = Member(NodeId("n9"), Mode.ASYNC, Address("other", 1), Address("h9", 8001), 9)
    await until(lambda: node.membership.get(NodeId("n9")) == moved)
    assert await site.ask("DELETE", "/members/n9") == (202, {"accepted": "n9"})
    await until(lambda: node.membership.get(NodeId("n9")) is None)


async def test_a_follower_names_the_leader_to_ask(sites: Sites) -> None:
    await led(sites)
    follower = await sites.cluster.start("n2", priority=1)
    await until(lambda: follower.node.leading_member is not None)
    site = await sites.open(follower)
    for method, path in (("PUT", "/members"), ("DELETE", "/members/n1")):
        status, answer = await site.ask(method, path, json=JOINING)
        assert (status, answer["leader"]) == (409, "n1:2")


@pytest.mark.parametrize(
    ("body", "complaint"),
    [
        (b"{", "no JSON"),
        (b"[]", "no JSON object"),
        (b"{}", "send {"),
        (b'{"node": "a/b", "resp": "h:1", "http": "h:2", "priority": 1}', "letters"),
        (b'{"node": "n9", "resp": "here", "http": "h:2", "priority": 1}', "invalid address 'here'"),
        (b'{"node": "n9", "resp": "h:1", "http": "::1:2", "priority": 1}', "write an IPv6 host in brackets"),
        (b'{"node": "n9", "resp": "h:1", "http": "h:2", "priority": "low"}', "send {"),
    ],
)
async def test_a_wrong_member_is_refused(sites: Sites, body: bytes, complaint: str) -> None:
    site, running = await led(sites)
    status, answer = await site.ask("PUT", "/members", data=body)
    assert status == 400
    assert complaint in answer["error"]
    assert [member.node for member in running.node.membership.members] == ["n1"]


async def test_other_wrong_requests(sites: Sites) -> None:
    site, _ = await led(sites)
    assert (await site.ask("DELETE", "/members/n9"))[0] == 400
    status, answer = await site.ask("DELETE", "/members/n1")
    assert (status, "n1 is the leader" in answer["error"]) == (400, True)
    assert (await site.ask("GET", "/nowhere"))[0] == 404
    assert (await site.ask("POST", "/status"))[0] == 405
    assert (await site.ask("PUT", "/members", data=b" " * (65 << 10)))[0] == 413


@pytest.mark.parametrize("given", ["", "Bearer wrong", PASSWORD, "Bearer ščř"])
async def test_changes_need_the_password(sites: Sites, given: str) -> None:
    site, running = await led(sites, PASSWORD)
    for method, path in (("PUT", "/members"), ("DELETE", "/members/n9"), ("POST", "/snapshots")):
        status, answer = await site.ask(method, path, json=JOINING, headers={"Authorization": given})
        assert (status, "Bearer" in answer["error"]) == (401, True)
    assert not (sites.folder / "snapshots").exists()
    assert (await site.ask("GET", "/status"))[0] == 200
    right = {"Authorization": f"Bearer {PASSWORD}"}
    assert (await site.ask("PUT", "/members", json=JOINING, headers=right))[0] == 202
    await until(lambda: running.node.membership.get(NodeId("n9")) is not None)


async def test_a_snapshot_is_taken_and_listed(sites: Sites) -> None:
    site, running = await led(sites)
    await running.write(b"k", b"v")
    assert (await site.ask("GET", "/snapshots"))[1]["snapshots"] == []
    status, taken = await site.ask("POST", "/snapshots")
    assert (status, taken["entries"], taken["digest"]) == (201, 1, running.node.status().digest)
    _, listed = await site.ask("GET", "/snapshots")
    assert [it["name"] for it in listed["snapshots"]] == [taken["name"]]
    assert (Path(taken["folder"]) / taken["name"] / "data.mdb").stat().st_size == taken["bytes"]


async def test_an_address_that_is_taken(sites: Sites) -> None:
    first = await sites.open()
    with pytest.raises(ConfigError, match=r"cannot listen at .*Choose another with --http"):
        await Admin(identity("n2"), "").start(first.http)


async def test_a_follower_enrols_itself_and_later_its_new_address(sites: Sites) -> None:
    leader = await sites.cluster.start("n1")
    await sites.cluster.leader()
    site = await sites.open(leader, PASSWORD)
    leader.node.membership_changes.add_member(Member(NodeId("n1"), Mode.ASYNC, Address("n1", 1), site.http, 0))
    follower = await sites.cluster.start("n2", priority=1)
    member = Member(NodeId("n2"), Mode.ASYNC, NOWHERE, NOWHERE, 1)
    await enrol(follower.node, identity("n2"), member, PASSWORD)
    assert leader.node.membership.get(NodeId("n2")) == member
    moved = replace(member, resp=Address("elsewhere", 1))
    await enrol(follower.node, identity("n2"), moved, PASSWORD)
    assert leader.node.membership.get(NodeId("n2")) == moved


async def enrol_elsewhere(sites: Sites, old_http: Address) -> RunningNode:
    """n2 starts, registered at `old_http`, and wants to be known at another address; the leader."""
    leader = await sites.cluster.start("n1")
    await sites.cluster.leader()
    site = await sites.open(leader)
    await until(lambda: leader.node.membership.get(NodeId("n1")) is not None)  # it registers itself first
    leader.node.membership_changes.add_member(Member(NodeId("n1"), Mode.ASYNC, Address("n1", 1), site.http, 0))
    leader.node.membership_changes.add_member(Member(NodeId("n2"), Mode.ASYNC, Address("n2", 1), old_http, 1))
    second = await sites.cluster.start("n2", priority=1)
    await enrol(second.node, identity("n2", 8), Member(NodeId("n2"), Mode.ASYNC, Address("n2", 1), NOWHERE, 1), "")
    return leader


async def test_a_second_process_of_a_node_that_still_answers_ends(sites: Sites) -> None:
    first = await sites.open(who=identity("n2", 7))
    with pytest.raises(ConfigError, match=f"n2 of cluster test runs already: it answers at {first.http}"):
        await enrol_elsewhere(sites, first.http)
    known = sites.cluster.nodes["n1"].node.membership.get(NodeId("n2"))
    assert known is not None and known.http == first.http


@pytest.mark.parametrize(
    "there",
    [identity("n3", 7), identity("n2", 7, cluster="other"), identity("n2", 8), None],
    ids=["another node", "another cluster", "itself", "nobody"],
)
async def test_a_node_moves_when_its_old_address_is_no_longer_its_own(sites: Sites, there: Identity | None) -> None:
    old_http = (await sites.open(who=there)).http if there else Address("127.0.0.1", 2)
    leader = await enrol_elsewhere(sites, old_http)
    known = leader.node.membership.get(NodeId("n2"))
    assert known is not None and known.http == NOWHERE


def test_processes_are_told_apart_by_what_they_say_of_themselves() -> None:
    own = identity("n2", 8)
    status = {"cluster": "test", "incarnation": identity("n2", 7).incarnation, "node": {"id": "n2", "topic_id": "T"}}
    assert own.is_claimed_by(status, "T")
    assert own.is_claimed_by({**status, "node": {"id": "n2"}}, "T")  # has no store yet
    assert not own.is_claimed_by(status, "of another Kafka")
    strangers: list[Any] = [None, [], {}, "up", {"cluster": "test", "incarnation": "7", "node": None}]
    for strange in strangers:
        assert not own.is_claimed_by(strange, "T")


class GatedLog(MemoryLog):
    """Once it is shut, each append waits until it is let through."""

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


async def test_members_that_join_at_once_do_not_push_each_other_out(sites: Sites) -> None:
    sites.cluster.timing = Timing(heartbeat_ms=60_000, lease_ms=120_000, election_ms=150_000, sync_ms=120_000)
    log = GatedLog()
    running = await sites.cluster.start("n1", log)
    members = [Member(NodeId(name), Mode.ASYNC, Address(name, 1), Address(name, 2), 1) for name in ("n2", "n3", "n4")]
    node = running.node
    await until(lambda: node.membership.get(NodeId("n1")) is not None)
    log.shut = True
    node.membership_changes.add_member(members[0])
    await until(lambda: log.waiting == 1)
    node.membership_changes.add_member(members[1])
    log.let_through()
    await until(lambda: node.membership.get(NodeId("n2")) is not None and log.waiting == 1)
    node.membership_changes.add_member(members[2])  # the second is still on its way
    log.let_through()
    log.let_through()
    await until(lambda: node.membership.get(NodeId("n4")) is not None)
    assert {member.node for member in node.membership.members} == {"n1", "n2", "n3", "n4"}


async def test_a_stranger_cannot_be_expelled(sites: Sites) -> None:
    _, running = await led(sites)
    with pytest.raises(BadRequest, match="n9 is not a member"):
        running.node.membership_changes.remove_member(NodeId("n9"))


async def test_a_load_balancer_finds_the_leader_and_the_replicas(sites: Sites) -> None:
    site, leader = await led(sites)
    follower = await sites.cluster.start("n2", priority=1)
    await sites.cluster.level()
    other = await sites.open(follower)
    await until(lambda: leader.node.lease_left_ms > 0 and follower.node.state is NodeState.SERVING)
    named = {"state": "serving", "leader": "n1", "resp": "n1:1", "http": "n1:2"}
    assert await site.ask("GET", "/leader") == (200, {"id": "n1", "role": "leader", **named})
    assert await site.ask("GET", "/replica") == (503, {"id": "n1", "role": "leader", **named})
    assert await other.ask("GET", "/leader") == (503, {"id": "n2", "role": "follower", **named})
    assert await other.ask("GET", "/replica") == (200, {"id": "n2", "role": "follower", **named})
    assert [await it.head(path) for it in (site, other) for path in ("/leader", "/replica")] == [200, 503, 503, 200]


async def test_a_load_balancer_sends_nothing_to_a_node_that_cannot_serve(sites: Sites) -> None:
    site, leader = await led(sites)
    follower = await sites.cluster.start("n2", priority=1)
    other, none = await sites.open(follower), await sites.open()
    await until(lambda: follower.node.state is NodeState.SERVING)
    leader.node._context.roles.lease = Lease()  # it has lost it
    follower.node._fail(LogDamage("the log has lost its tail: restore it"))
    assert [await it.head(path) for it in (site, other, none) for path in ("/leader", "/replica")] == [503] * 6
