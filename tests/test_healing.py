"""A node whose store is damaged rebuilds it by itself, or says why it cannot. On a log in memory."""

from __future__ import annotations

import asyncio
import json
import resource
import shutil
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

from replicator.errors import Diverged, LogReplaced, ReplicatorError, StoreFull
from replicator.node import checked_reader, healing
from replicator.node import node as node_module
from replicator.node.health import NodeState
from replicator.position import Offset
from replicator.protocol import healing as decisions
from replicator.protocol.healing import START_OF_LOG, Cause, Damage
from replicator.records.types import Change, Mode, Policy, Write, WriteMode
from replicator.store import replacement, snapshot
from replicator.store.keys import encode_key
from replicator.store.machine import Machine, open_machine
from tests.builds import needs_interpreted
from tests.damage import flip
from tests.healing_node import HealingCluster, HealingNode, SnapshotFolder
from tests.memory_cluster import RunningNode, until


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(node_module, "AUDIT_MS", 20)
    monkeypatch.setattr(decisions, "HEAL_BACKOFF_MS", 10)
    monkeypatch.setattr(healing, "SNAPSHOT_POLL_MS", 10)
    monkeypatch.setattr(checked_reader, "END_CHECK_MS", 10)
    monkeypatch.setattr(checked_reader, "TRUNCATED_MS", 50)


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[HealingCluster]:
    cluster = HealingCluster(tmp_path)
    yield cluster
    await cluster.stop()


def key(row: bytes) -> bytes:
    return encode_key("kv", row, b"")


def value(row: bytes) -> bytes:
    return b"s<the value of " + row + b">"


async def write(leader: RunningNode, *rows: bytes) -> Offset:
    for row in rows:
        offset = await leader.write(row, value(row))
    return offset


async def pair(cluster: HealingCluster) -> tuple[RunningNode, HealingNode]:
    """A leader that has written a, b and c, and a follower that has applied them."""
    leader = await cluster.start("n1")
    await cluster.leader()
    follower = cluster.start_healing("n2", priority=1)
    await follower.serving()
    written = await write(leader, b"a", b"b", b"c")
    await until(lambda: follower.node.machine.state.offset >= written)
    return leader, follower


async def holds(node: HealingNode, *rows: bytes) -> None:
    await until(lambda: all(node.node.machine.view.get(key(row)) == value(row) for row in rows))


async def test_a_follower_with_one_flipped_byte_is_rebuilt(cluster: HealingCluster) -> None:
    leader, follower = await pair(cluster)
    before = follower.node
    assert flip(follower.store, value(b"b"))
    await follower.healed()
    await write(leader, b"d")
    await holds(follower, b"a", b"b", b"c", b"d")
    after = follower.node
    assert after.member.incarnation != before.member.incarnation  # its former acks do not count
    assert follower.history.counts[Cause.DIVERGED] == 1
    status = after.node.status()
    assert status.healed is not None and status.healed.source == START_OF_LOG and "faulty" in status.healed.damage.error
    kept = replacement.quarantined(follower.folder)
    assert kept is not None and value(b"a") in (kept / "data.mdb").read_bytes()


async def test_it_answers_no_reads_from_the_moment_on_at_which_the_damage_is_found(cluster: HealingCluster) -> None:
    _, follower = await pair(cluster)
    node = follower.node.node
    seen: list[str] = []

    async def examine(*args: Any) -> Any:
        with pytest.raises(Diverged):
            node.store()
        seen.append(node.state)
        await asyncio.Event().wait()

    with patch.object(healing.Healer, "examine", examine):
        assert flip(follower.store, value(b"b"))
        await until(lambda: bool(seen))
    assert seen == [NodeState.HEALING]


@pytest.mark.parametrize("what", ["folder", "file", "replaced"])
async def test_a_store_that_is_deleted_under_its_node_is_rebuilt(cluster: HealingCluster, what: str) -> None:
    leader, follower = await pair(cluster)
    file = follower.store / "data.mdb"
    if what == "folder":
        shutil.rmtree(follower.store)
    elif what == "file":
        file.unlink()
    else:
        shutil.copy(file, file.with_name("copy"))
        file.with_name("copy").replace(file)
    follower.node.node.status()
    await follower.healed()
    await write(leader, b"d")
    await holds(follower, b"a", b"b", b"c", b"d")
    assert follower.history.counts[Cause.UNREADABLE] == 1
    healed = follower.node.node.status().healed
    assert healed is not None
    assert f"data.mdb was {'replaced' if what == 'replaced' else 'deleted'}" in healed.damage.error


def test_a_store_whose_folder_was_deleted_is_closed_and_marked(tmp_path: Path) -> None:
    machine = open_machine(tmp_path / replacement.STORE, "test", "topic")
    shutil.rmtree(machine.folder)
    assert machine.size_bytes == 0
    machine.close()
    replacement.mark_damaged(tmp_path, Damage(Cause.UNREADABLE, "deleted", 1))
    assert replacement.damage_of(tmp_path) == Damage(Cause.UNREADABLE, "deleted", 1)


async def test_a_follower_is_rebuilt_from_a_snapshot(cluster: HealingCluster) -> None:
    leader, follower = await pair(cluster)
    taken = follower.take_snapshot()
    cluster.log.trim(Offset(taken.offset + 1))
    await write(leader, b"d")
    await holds(follower, b"d")
    assert flip(follower.store, value(b"d"))
    await follower.healed()
    await holds(follower, b"a", b"d")
    assert follower.history.last is not None
    assert (follower.history.last.source, follower.history.last.offset) == (taken.name, taken.offset)


async def test_a_snapshot_with_a_flipped_byte_is_not_used(cluster: HealingCluster) -> None:
    _, follower = await pair(cluster)
    taken = follower.take_snapshot()
    assert flip(follower.snapshots / taken.name, value(b"a"))
    assert flip(follower.store, value(b"b"))
    await follower.healed()
    await holds(follower, b"a", b"b")
    assert follower.history.last is not None and follower.history.last.source == START_OF_LOG


async def test_a_snapshot_of_a_damaged_store_is_not_used(cluster: HealingCluster, tmp_path: Path) -> None:
    """Its checksum is right, but its content is not that of the digest."""
    _, follower = await pair(cluster)
    with patch.object(Machine, "audit", return_value=True):
        assert flip(follower.store, value(b"a"))
        follower.node.machine.view.end_transaction()
        taken = follower.take_snapshot()
    with pytest.raises(ReplicatorError, match="entries have the digest"):
        snapshot.check_content(follower.snapshots / taken.name)
    await follower.healed()
    await holds(follower, b"a")
    assert follower.history.last is not None and follower.history.last.source == START_OF_LOG


async def test_a_foreign_snapshot_is_not_used(cluster: HealingCluster) -> None:
    leader, follower = await pair(cluster)
    taken = follower.take_snapshot()
    manifest = follower.snapshots / taken.name / "manifest.json"
    genuine = json.loads(manifest.read_text())
    changes: list[dict[str, Any]] = [{"cluster": "other"}, {"topic_id": "x"}, {"timeline": "00"}, {"format": 9}]
    for number, change in enumerate(changes):
        foreign = follower.snapshots / f"foreign{number}"
        shutil.copytree(manifest.parent, foreign)
        (foreign / "manifest.json").write_text(json.dumps({**genuine, **change, "name": foreign.name}))
    (follower.snapshots / "half").mkdir()
    (follower.snapshots / "half" / "manifest.json").write_text("{")
    shutil.rmtree(manifest.parent)
    cluster.log.trim(Offset(taken.offset + 1))
    assert flip(follower.store, value(b"b"))
    await until(lambda: any("it is of cluster other" in report for report in follower.reports))
    assert follower.state is NodeState.HEALING
    assert "Take one at another node" in follower.reports[-1]
    leader_machine = leader.machine
    leader_machine.reserve_for_copy()
    snapshot.take(leader_machine.copy_to, follower.snapshots)  # now there is one
    await follower.healed()
    await holds(follower, b"a", b"b")


async def test_a_leader_with_a_flipped_byte_gives_up_leadership(cluster: HealingCluster) -> None:
    damaged = cluster.start_healing("n1")
    await until(lambda: damaged.running is not None and damaged.running.node.leads)
    other = await cluster.start("n2", priority=1)
    await write(damaged.node, b"a", b"b")
    damaged.node.node.membership_changes.add_member(other.member)
    await cluster.caught_up()
    assert flip(damaged.store, value(b"a"))
    await until(lambda: other.node.leads)
    await damaged.healed()
    await write(other, b"c")
    await holds(damaged, b"a", b"b", b"c")
    assert not damaged.node.node.leads


async def test_the_only_node_leads_again_once_its_store_is_rebuilt(cluster: HealingCluster) -> None:
    node = cluster.start_healing("n1")
    await until(lambda: node.running is not None and node.running.node.leads)
    await write(node.node, b"a", b"b")
    assert flip(node.store, value(b"a"))
    await node.healed()
    await until(lambda: node.node.node.leads)
    await write(node.node, b"c")
    await holds(node, b"a", b"b", b"c")


async def test_a_truncated_log_is_followed_and_the_lost_offsets_are_named(
    cluster: HealingCluster, caplog: pytest.LogCaptureFixture
) -> None:
    leader, follower = await pair(cluster)
    taken = follower.take_snapshot()
    kept = await write(leader, b"d")
    lost = await write(leader, b"e", b"f")
    await holds(follower, b"f")
    later = follower.take_snapshot()
    await leader.stop()
    read = follower.node.machine.state.offset
    cluster.log.truncate(Offset(kept + 1))
    await cluster.start("n1", folder="n1-new")
    await follower.healed()
    assert follower.history.last is not None
    assert follower.history.last.source == taken.name != later.name
    assert lost in follower.history.last.lost and kept not in follower.history.last.lost
    assert follower.history.last.lost.stop - 1 == read
    assert "their writes are gone" in caplog.text
    await write(await cluster.leader(), b"g")
    await holds(follower, b"a", b"d", b"g")
    assert follower.node.machine.view.get(key(b"e")) is None
    former = replacement.quarantined(follower.folder)
    assert former is not None and value(b"e") in (former / "data.mdb").read_bytes()


async def test_a_snapshot_of_what_the_log_has_lost_is_not_transferred(cluster: HealingCluster) -> None:
    """The log has grown again, past its offset."""
    leader, follower = await pair(cluster)
    kept = await write(leader, b"d")
    await write(leader, b"e")
    await holds(follower, b"e")
    lost = follower.take_snapshot()
    await follower.kill()
    await leader.stop()
    cluster.log.truncate(Offset(kept + 1))
    other = await cluster.start("n1", folder="n1-new")
    await until(lambda: other.node.leads)
    while await write(other, b"f") <= lost.offset:
        pass
    with patch.object(SnapshotFolder, "restore", side_effect=AssertionError("it is transferred")):
        returned = cluster.start_healing("n2", priority=1)
        await returned.healed()
    assert returned.history.last is not None
    assert (returned.history.last.damage.cause, returned.history.last.source) == (Cause.TRUNCATED, START_OF_LOG)
    await holds(returned, b"a", b"d", b"f")


async def test_all_nodes_go_on_if_all_had_read_what_the_log_has_lost(cluster: HealingCluster) -> None:
    nodes = [cluster.start_healing(f"n{number}", priority=number) for number in (1, 2)]
    await until(lambda: any(it.running is not None and it.running.node.leads for it in nodes))
    leader = next(it for it in nodes if it.node.node.leads)
    kept = await write(leader.node, b"a")
    await write(leader.node, b"b", b"c")
    await cluster.caught_up()
    for node in nodes:
        await node.kill()
    cluster.log.truncate(Offset(kept + 1))
    nodes = [cluster.start_healing(f"n{number}", priority=number) for number in (1, 2)]
    for node in nodes:
        await node.healed()
    await until(lambda: any(it.running is not None and it.running.node.leads for it in nodes))
    leader = next(it for it in nodes if it.running is not None and it.running.node.leads)
    await write(leader.node, b"d")
    for node in nodes:
        await holds(node, b"a", b"d")
        assert node.node.machine.view.get(key(b"b")) is None


async def test_a_store_below_the_start_of_the_log_is_replaced(cluster: HealingCluster) -> None:
    leader, follower = await pair(cluster)
    await follower.kill()
    last = await write(leader, b"d")
    leader.machine.reserve_for_copy()
    taken = snapshot.take(leader.machine.copy_to, follower.snapshots)
    cluster.log.trim(Offset(last + 1))
    returned = cluster.start_healing("n2", priority=1)
    await returned.healed()
    await holds(returned, b"a", b"d")
    assert returned.history.last is not None and returned.history.last.source == taken.name
    assert returned.history.counts[Cause.TRIMMED] == 1
    new = cluster.start_healing("n3", priority=2)
    await new.healed()
    await holds(new, b"a", b"d")
    assert replacement.quarantined(new.folder) is None


async def not_healed(node: HealingNode, match: str) -> None:
    await until(lambda: node.state is NodeState.FAILED)
    assert match in node.node.node.status().trouble
    assert not any(node.history.counts.values()) and replacement.quarantined(node.folder) is None


async def test_a_corrupt_record_is_reported(cluster: HealingCluster) -> None:
    """The store is right: another one would be stopped by the same record."""
    _, follower = await pair(cluster)
    cluster.log.append_now([cluster.log.entries[-1].payload[:-1]])
    await not_healed(follower, "cannot be decoded")


async def test_a_gap_in_the_log_is_reported(cluster: HealingCluster) -> None:
    leader, follower = await pair(cluster)
    genuine = cluster.log.append_now

    def lose(payloads: Sequence[bytes]) -> Offset:
        base = genuine(payloads)
        cluster.log.entries = [it for it in cluster.log.entries if it.offset < base]
        return base

    with patch.object(cluster.log, "append_now", lose):
        await write(leader, b"lost")
    await write(leader, b"d")
    await not_healed(follower, "a gap in seq")


async def test_a_recreated_topic_is_reported(cluster: HealingCluster) -> None:
    _, follower = await pair(cluster)
    error = LogReplaced("the topic was deleted and recreated")
    reader = follower.node.node._context.reader
    with patch.object(reader, "_after", side_effect=error):
        cluster.log.append_now([b"wake up"])
        await not_healed(follower, "recreated")


@needs_interpreted
async def test_a_record_that_does_not_follow_from_the_log_is_reported_once_that_is_certain(
    cluster: HealingCluster,
) -> None:
    """The leader has computed it from a damaged store: no rebuilt store can apply it."""
    leader, follower = await pair(cluster)
    body = Write((Change("kv", b"a", b"", b"s<what the leader has>", b"s<new>"),))
    with patch.object(Machine, "apply", autospec=True, side_effect=applied_by(leader.machine)):
        leader.node._context.enqueue_own(body)
        await until(lambda: follower.state is NodeState.FAILED)
    assert "the record is wrong" in follower.node.node.status().trouble
    assert sum(follower.history.counts.values()) == 1
    assert follower.history.last is not None and follower.history.last.damage.record == leader.machine.state.seq


def applied_by(damaged: Machine) -> Callable[..., None]:
    """A machine that does not notice that a record differs."""
    genuine = Machine.apply

    def apply(machine: Machine, bodies: Sequence[Any], state: Any, commands: Sequence[int]) -> None:
        if machine is damaged:
            bodies = [it for it in bodies if not (type(it) is Write and b"what the leader has" in repr(it).encode())]
        genuine(machine, bodies, state, commands)

    return apply


async def test_a_faulty_machine_is_reported(cluster: HealingCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is rebuilt is damaged again."""
    _, follower = await pair(cluster)

    def audit(machine: Machine) -> bool:
        if machine.folder.parent == follower.folder:
            raise Diverged("the memory of this machine is faulty")
        return True

    monkeypatch.setattr(Machine, "audit", audit)
    await until(lambda: follower.state is NodeState.FAILED)
    assert "was rebuilt 5 times within an hour" in follower.node.node.status().trouble
    await follower.kill()
    monkeypatch.undo()
    monkeypatch.setattr(node_module, "AUDIT_MS", 20)
    again = cluster.start_healing("n2")
    await again.serving()  # the store that it has given up on is the one that was rebuilt last


async def test_a_full_disk_delays_the_new_store(cluster: HealingCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    _, follower = await pair(cluster)
    follower.take_snapshot()
    (follower.folder / "quarantine" / "former").mkdir(parents=True)
    genuine, full = SnapshotFolder.restore, [True, True, True]

    def restore(source: SnapshotFolder, name: str, store: Path) -> None:
        if full:
            full.pop()
            raise StoreFull("the disk is full: free some space")
        genuine(source, name, store)

    monkeypatch.setattr(SnapshotFolder, "restore", restore)
    assert flip(follower.store, value(b"b"))
    await follower.healed()
    await holds(follower, b"a", b"b")
    assert any("free some space" in report for report in follower.reports)
    assert not (follower.folder / "quarantine" / "former").exists()


@pytest.mark.parametrize("step", ["listed", "restore", "check", "complete"])
async def test_a_process_that_is_killed_while_it_rebuilds_goes_on_later(
    cluster: HealingCluster, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """It never opens the damaged store again."""
    _, follower = await pair(cluster)
    taken = follower.take_snapshot()
    reached = asyncio.Event()
    loop = asyncio.get_running_loop()

    def stop(*args: Any) -> Any:
        loop.call_soon_threadsafe(reached.set)
        raise asyncio.CancelledError

    places: dict[str, tuple[Any, str]] = {
        "check": (snapshot, "check_content"),
        "complete": (replacement, "complete"),
    }
    place = places.get(step, (SnapshotFolder, step))
    with patch.object(*place, side_effect=stop):
        assert flip(follower.store, value(b"b"))
        await reached.wait()
        await follower.kill()
    assert replacement.damage_of(follower.folder) is not None
    again = cluster.start_healing("n2", priority=1)
    await again.healed()
    await holds(again, b"a", b"b")
    assert again.history.last is not None and again.history.last.source == taken.name


async def test_a_sync_replica_that_is_rebuilt_acks_again_as_another_process(cluster: HealingCluster) -> None:
    leader, follower = await pair(cluster)
    changes = leader.node.membership_changes
    await cluster.register(follower.node)
    changes.set_mode(follower.node.member.node, Mode.SYNC)
    await until(lambda: any(it.mode is Mode.SYNC for it in leader.node.membership.members))
    changes.set_policy(Policy(WriteMode.SYNC))
    await write(leader, b"d")
    former = follower.node.member
    assert flip(follower.store, value(b"b"))
    await follower.healed()
    assert not any(it.author == follower.node.member.author for it in leader.node.membership.members)
    writing = asyncio.ensure_future(leader.write(b"e", value(b"e")))
    for _ in range(50):
        await asyncio.sleep(0.001)
    assert not writing.done()  # the acks of the former process do not count, and the new one is not registered
    await cluster.register(follower.node)
    await writing
    await holds(follower, b"a", b"b", b"d", b"e")
    member = leader.node.membership.get(former.node)
    assert member is not None and member.mode is Mode.SYNC and member.incarnation != former.incarnation


async def test_a_disk_that_is_full_while_a_snapshot_is_restored(cluster: HealingCluster) -> None:
    leader, follower = await pair(cluster)
    for number in range(10):
        await leader.write(b"large%d" % number, b"s" + bytes(50_000))
    await until(lambda: follower.node.machine.view.get(key(b"large9")) is not None)
    follower.take_snapshot()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    assert flip(follower.store, value(b"b"))
    resource.setrlimit(resource.RLIMIT_FSIZE, (64 << 10, hard))
    try:
        await until(lambda: any("free some space" in report for report in follower.reports))
        assert follower.state is NodeState.HEALING
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    await follower.healed()
    await holds(follower, b"a", b"b", b"c")
