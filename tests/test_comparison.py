"""All stores are compared at one offset while writes go on, and the entries that differ are named."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from replicator.cli.verify import draw
from replicator.errors import BadRequest, Busy, NotLeader, StoreFull
from replicator.limits import COMPARED_RANGES, MAX_KEY_BYTES
from replicator.local import comparison as comparison_module
from replicator.local.admin_client import ClusterAdmin
from replicator.local.comparison import DIFFERS, EQUAL, NOT_COMPARED, StoreComparisonReport, compare_stores
from replicator.node import store_comparison
from replicator.node.store_comparison import END, SLICE, KeyRange, StoreComparison
from replicator.position import Offset
from replicator.records.types import Mode
from replicator.store.keys import encode_key
from tests.builds import needs_interpreted
from tests.damage import flip
from tests.memory_cluster import MemoryCluster, RunningNode, until
from tests.modes_cluster import STEADY
from tests.test_admin import HttpServers, identity
from tests.test_openapi import check


@pytest.fixture
async def servers(tmp_path: Path) -> AsyncIterator[HttpServers]:
    servers = HttpServers(tmp_path)
    servers.cluster.timing = STEADY
    yield servers
    await servers.close()


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[MemoryCluster]:
    cluster = MemoryCluster(tmp_path)
    yield cluster
    await cluster.stop()


async def fill(leader: RunningNode, rows: int) -> None:
    for first in range(0, rows, 500):
        numbers = range(first, min(first + 500, rows))
        await asyncio.gather(*(leader.write(b"row%06d" % number, b"s<value %d>" % number) for number in numbers))


async def compare(servers: HttpServers, names: list[str], limit: int = 10) -> StoreComparisonReport:
    """As the command does, through the HTTP servers of these nodes of the cluster."""
    clients = []
    for index, name in enumerate(names):
        running = servers.cluster.nodes[name]
        clients.append(await servers.open(running, own=identity(name, index + 1)))
        leader = await servers.cluster.leader()
        member = running.member
        servers.cluster.nodes[name].member = member
        at = clients[-1].http
        leader.node.membership_changes.add_member(
            type(member)(member.node, Mode.ASYNC, member.resp, at, member.priority, member.incarnation)
        )
        await until(
            lambda member=member, at=at, leader=leader: any(  # type: ignore[misc]
                it.node == member.node and it.http == at for it in leader.node.membership.members
            )
        )
    await servers.cluster.caught_up()
    admin = ClusterAdmin([it.http for it in clients], "")
    return await asyncio.to_thread(compare_stores, admin, limit)


async def started(servers: HttpServers, rows: int, names: tuple[str, ...] = ("n1", "n2", "n3")) -> RunningNode:
    for index, name in enumerate(names):
        await servers.cluster.start(name, priority=index)
    leader = await servers.cluster.leader()
    await until(lambda: leader.node.is_registered)  # it writes its addresses then
    await fill(leader, rows)
    await servers.cluster.caught_up()
    return leader


def results(report: StoreComparisonReport) -> dict[str, str]:
    return {node.id: node.result for node in report.nodes}


@pytest.mark.parametrize("rows", [0, 1, 10_000])
async def test_equal_stores(servers: HttpServers, rows: int) -> None:
    await started(servers, rows)
    report = await compare(servers, ["n1", "n2", "n3"])
    assert results(report) == dict.fromkeys(("n1", "n2", "n3"), EQUAL)
    assert report.all_equal and not report.differences
    assert {node.entries for node in report.nodes} == {rows}


async def test_an_entry_that_differs_is_named_and_the_majority_is_right(servers: HttpServers) -> None:
    await started(servers, 10_000)
    assert flip(servers.cluster.nodes["n2"].machine.folder, b"s<value 7777")
    report = await compare(servers, ["n1", "n2", "n3"])
    assert results(report) == {"n1": EQUAL, "n2": DIFFERS, "n3": EQUAL}
    [difference] = report.differences
    assert (difference.table, difference.row, difference.field) == ("kv", "row007777", "")
    digests = difference.digests
    assert digests["n1"] == digests["n3"] != digests["n2"]
    assert "do not have the digest" in next(it for it in report.nodes if it.id == "n2").trouble
    console = Console(width=200)
    with console.capture() as captured:
        console.print(*draw(report), sep="\n")
    printed = captured.get()
    assert re.search(r"^n2 +follower +async +10000 +\w{12} +differs", printed, re.MULTILINE)
    assert re.search(r"^kv +row007777 +\w{12} +\w{12} +\w{12}", printed, re.MULTILINE)
    assert not report.has_more


async def test_the_leader_may_be_the_one_that_is_wrong(servers: HttpServers) -> None:
    leader = await started(servers, 100)
    assert flip(leader.machine.folder, b"s<value 42")
    report = await compare(servers, ["n1", "n2", "n3"])
    name = leader.node.status().id
    assert {id for id, result in results(report).items() if result == DIFFERS} == {name}
    assert [it.row for it in report.differences] == ["row000042"]


async def test_missing_and_additional_entries_are_named_up_to_the_limit(servers: HttpServers) -> None:
    await started(servers, 50)
    machine = servers.cluster.nodes["n2"].machine
    machine.view.end_transaction()
    with machine._env.begin(write=True, db=machine._entries) as txn:
        for number in range(10, 20):
            txn.delete(encode_key("kv", b"row%06d" % number, b""))
        txn.put(encode_key("kv", b"additional", b"f"), b"s")
    report = await compare(servers, ["n1", "n2", "n3"], limit=5)
    assert report.has_more and len(report.differences) == 5
    assert report.differences[0].digests["n1"] is None
    assert (report.differences[0].row, report.differences[0].field) == ("additional", "f")
    assert report.differences[1].digests["n2"] is None
    assert results(report)["n2"] == DIFFERS


async def test_writes_go_on_during_the_comparison(servers: HttpServers) -> None:
    leader = await started(servers, 3_000)
    writes = 0

    async def write() -> None:
        nonlocal writes
        while True:
            await leader.write(b"row%06d" % (writes % 5_000), b"s%d" % writes)
            writes += 1

    writing = asyncio.create_task(write())
    report = await compare(servers, ["n1", "n2", "n3"])
    during = writes
    writing.cancel()
    assert report.all_equal and during > 100


async def test_a_snapshotter_is_compared_and_a_node_that_does_not_answer_is_not(servers: HttpServers) -> None:
    leader = await started(servers, 10)
    await compare(servers, ["n1", "n2", "n3"])
    name = next(it for it in ("n2", "n3") if it != leader.node.status().id)
    leader.node.membership_changes.set_mode(servers.cluster.nodes[name].member.node, Mode.SNAPSHOTTER)
    await until(lambda: any(it.mode is Mode.SNAPSHOTTER for it in leader.node.membership.members))
    member = servers.cluster.member("n9", 9)
    leader.node.membership_changes.add_member(member)
    await until(lambda: leader.node.membership.get(member.node) is not None)
    report = await compare(servers, ["n1", "n2", "n3"])
    assert results(report) == {"n1": EQUAL, "n2": EQUAL, "n3": EQUAL, "n9": NOT_COMPARED}
    assert not report.all_equal
    assert {it.mode for it in report.nodes} == {"async", "snapshotter"}


@needs_interpreted
async def test_a_node_that_applies_nothing_is_not_compared_and_the_others_are(
    servers: HttpServers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also if the others would not keep their states for so long, and have applied other checkpoints since."""
    leader = await started(servers, 10)
    await compare(servers, ["n1", "n2", "n3"])
    monkeypatch.setattr(store_comparison, "COMPARISON_TIMEOUT_S", 1.0)
    monkeypatch.setattr(comparison_module, "KEEP_S", 0.2)
    slow = next(it for it in ("n2", "n3") if it != leader.node.status().id)

    def full(*_: object) -> None:
        raise StoreFull("the disk is full")

    async def append_checkpoints() -> None:
        while True:
            leader.node.comparison._hook.is_requested = True
            await leader.write(b"more", b"s")
            await asyncio.sleep(0.3)

    monkeypatch.setattr(servers.cluster.nodes[slow].machine, "apply", full)
    appending = asyncio.create_task(append_checkpoints())
    admin = ClusterAdmin([leader.node.membership.members[0].http], "")
    report = await asyncio.to_thread(compare_stores, admin, 10, apply_s=4.0)
    appending.cancel()
    assert results(report) == {**dict.fromkeys(("n1", "n2", "n3"), EQUAL), slow: NOT_COMPARED}
    [trouble] = [it.trouble for it in report.nodes if it.trouble]
    assert re.fullmatch(r"it has not applied the log up to offset \d+ within 4 s: the disk is full", trouble)
    await until(lambda: not any(it.node.comparison._id for it in servers.cluster.nodes.values()))


# One node


@pytest.fixture
async def comparison(cluster: MemoryCluster) -> StoreComparison:
    leader = await cluster.start("n1")
    await cluster.leader()
    await fill(leader, 300)
    return leader.node.comparison


async def test_the_ranges_cover_all_keys(comparison: StoreComparison) -> None:
    comparison.begin("a")
    offset = await comparison.checkpoint("a")
    ranges: list[KeyRange] = []
    start = b""
    while True:
        ranges += await comparison.split("a", offset, start, b"", 7)
        start = ranges[-1].stop
        if start == END:
            break
    assert [it.digest.entries for it in ranges] == [7] * 42 + [6]
    assert [it.stop for it in ranges[:-1]] == [it.start for it in ranges[1:]]
    bounds = [it.start for it in ranges[:COMPARED_RANGES]] + [ranges[COMPARED_RANGES].start]
    assert await comparison.digests("a", offset, bounds) == [it.digest for it in ranges[:COMPARED_RANGES]]
    found, are_all = await comparison.entries("a", offset, ranges[3].start, ranges[3].stop, 5)
    assert len(found) == 5 and not are_all
    rest, are_all = await comparison.entries("a", offset, found[-1].key + b"\0", ranges[3].stop, 5)
    assert len(rest) == 2 and are_all
    comparison.end("a")


async def test_the_key_after_the_longest_one(comparison: StoreComparison, cluster: MemoryCluster) -> None:
    room = MAX_KEY_BYTES - len(encode_key("kv", b"", b""))
    await cluster.nodes["n1"].write(b"z" * room, b"s")
    comparison.begin("a")
    offset = await comparison.checkpoint("a")
    longest = encode_key("kv", b"z" * room, b"")
    found, _ = await comparison.entries("a", offset, longest, b"", 5)
    assert [it.key for it in found] == [longest]
    assert await comparison.entries("a", offset, longest + b"\0", b"", 5) == ([], True)


async def test_the_state_does_not_change_with_later_writes(comparison: StoreComparison, cluster: MemoryCluster) -> None:
    comparison.begin("a")
    offset = await comparison.checkpoint("a")
    before = await comparison.digests("a", offset, [b"", b""])
    await fill(cluster.nodes["n1"], 0)
    await cluster.nodes["n1"].write(b"row000001", b"sother")
    assert await comparison.digests("a", offset, [b"", b""]) == before
    later = await comparison.checkpoint("a")
    assert await comparison.digests("a", later, [b"", b""]) != before


async def test_only_the_newest_states_are_kept(comparison: StoreComparison) -> None:
    comparison.begin("a")
    offsets = [await comparison.checkpoint("a") for _ in range(4)]
    with pytest.raises(Busy, match="any more"):
        await comparison.state("a", offsets[0])
    assert await comparison.state("a", offsets[1]) is not None
    comparison.end("a")
    with pytest.raises(BadRequest, match="has ended"):
        await comparison.state("a", offsets[1])


async def test_one_comparison_at_a_time(comparison: StoreComparison) -> None:
    comparison.begin("a")
    with pytest.raises(Busy, match="already"):
        comparison.begin("b")
    comparison.begin("a")
    comparison.end("b")
    comparison.end("a")
    comparison.begin("b")
    with pytest.raises(BadRequest):
        await comparison.checkpoint("a")


async def test_only_the_leader_appends_a_checkpoint(comparison: StoreComparison, cluster: MemoryCluster) -> None:
    follower = await cluster.start("n2", priority=1)
    await cluster.caught_up()
    follower.node.comparison.begin("a")
    with pytest.raises(NotLeader):
        await follower.node.comparison.checkpoint("a")
    assert await follower.node.comparison.state("a", Offset(10**6)) is None


async def test_a_store_that_grows_ends_the_comparison(comparison: StoreComparison, cluster: MemoryCluster) -> None:
    comparison.begin("a")
    offset = await comparison.checkpoint("a")
    cluster.nodes["n1"].machine._grow()
    with pytest.raises(Busy, match="has grown"):
        await comparison.digests("a", offset, [b"", b""])


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/comparison", {}),
        ("/comparison", {"id": 5}),
        ("/comparison", {"id": "x" * 65}),
        ("/comparison/checkpoint", {"id": "unknown"}),
        ("/comparison/state", {"id": "a", "offset": -1}),
        ("/comparison/state", {"id": "a", "offset": "1"}),
        ("/comparison/split", {"id": "a", "offset": 1, "start": "", "stop": "", "entries": 0}),
        ("/comparison/split", {"id": "a", "offset": 1, "start": "xyz", "stop": "", "entries": 1}),
        ("/comparison/split", {"id": "a", "offset": 1, "start": "00" * 600, "stop": "", "entries": 1}),
        ("/comparison/ranges", {"id": "a", "offset": 1, "bounds": [""]}),
        ("/comparison/ranges", {"id": "a", "offset": 1, "bounds": [5, 6]}),
        ("/comparison/entries", {"id": "a", "offset": 1, "start": "", "stop": "", "limit": True}),
    ],
)
async def test_invalid_requests(servers: HttpServers, path: str, body: dict[str, Any]) -> None:
    await started(servers, 1, ("n1",))
    client = await servers.open(servers.cluster.nodes["n1"])
    status, answer = await client.ask("PUT" if path == "/comparison" else "POST", path, json=body)
    assert status == 400 and answer["error"]


async def test_other_tasks_run_while_digests_are_computed(comparison: StoreComparison, cluster: MemoryCluster) -> None:
    await fill(cluster.nodes["n1"], 4 * SLICE)
    comparison.begin("a")
    offset = await comparison.checkpoint("a")
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0)
            turns += 1

    counting = asyncio.create_task(count())
    for work in (
        comparison.digests("a", offset, [b"", b""]),
        comparison.split("a", offset, b"", b"", 4096),
        comparison.entries("a", offset, b"", b"", 4096),
    ):
        before = turns
        await work
        assert turns - before >= 3
    counting.cancel()


async def test_the_answers_are_as_described(servers: HttpServers) -> None:
    await started(servers, 10, ("n1",))
    client = await servers.open(servers.cluster.nodes["n1"])

    async def ask(method: str, path: str, **fields: Any) -> Any:
        described = "/comparison/{id}" if method == "DELETE" else path
        status, answer = await client.ask(method, path, json={"id": "a", **fields})
        check(method, described, status, answer)
        assert status < 300
        return answer

    await ask("PUT", "/comparison")
    offset = (await ask("POST", "/comparison/checkpoint"))["offset"]
    assert (await ask("POST", "/comparison/state", offset=offset))["entries"] == 10
    assert (await ask("POST", "/comparison/state", offset=offset + 1_000)) == {"applied": False}
    ranges = (await ask("POST", "/comparison/split", offset=offset, start="", stop="", entries=4))["ranges"]
    assert [it["entries"] for it in ranges] == [4, 4, 2]
    bounds = [it["start"] for it in ranges] + [""]
    digests = (await ask("POST", "/comparison/ranges", offset=offset, bounds=bounds))["ranges"]
    assert [it["digest"] for it in digests] == [it["digest"] for it in ranges]
    found = await ask("POST", "/comparison/entries", offset=offset, start="", stop=ranges[1]["start"], limit=9)
    assert len(found["entries"]) == 4 and found["are_all"]
    await ask("DELETE", "/comparison/a")
