"""`replicator history`: who changed a key when."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Iterable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import typer

from replicator.cli.history import _parse_since, describe
from replicator.errors import LogDamage, LogTrimmed
from replicator.log.kafka.admin import trim
from replicator.log.memory import MemoryLog
from replicator.position import Author, Epoch, NodeId, Offset, Seq
from replicator.protocol.log_state import LogState
from replicator.recovery.accepted_log import AcceptedRecord, LogBounds, bounds_of, read_accepted
from replicator.recovery.history import ChangeKind, KeyChange, history_of, kind_of, values_in
from replicator.recovery.history_reader import read_history
from replicator.recovery.sources import CLOCK_MARGIN_MS, WORTH_RECORDS, choose_start, of_log
from replicator.server.keyspace import WritableKeyspace
from replicator.snapshots.repository import Repository, StoredSnapshot
from replicator.snapshots.transfer import OnTransferred, ignore
from replicator.store import snapshot
from replicator.store.rows import Image
from replicator.store.snapshot import Manifest
from replicator.stream.change import Change, Op, Source
from tests.memory_cluster import MemoryCluster, submit, until
from tests.process_cluster import Cluster

EMPTY = LogState()
FAR_MS = 99_000_000_000_000


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[MemoryCluster]:
    """Its log has two terms, void entries, and changes of all kinds."""
    cluster = MemoryCluster(tmp_path)
    try:
        await cluster.start("n1")
        leader = await cluster.leader()
        await leader.write(b"k", b"sone")
        await leader.write(b"k2", b"sother")
        copied = cluster.log.entries[-1].payload
        transaction = leader.node.begin()
        keyspace = WritableKeyspace(transaction, now_ms=0)
        keyspace.put_string(b"k", b"one", expires_at_ms=FAR_MS)
        keyspace.put_fields(b"h", {b"a": b"1", b"b": b"2"})
        await submit(leader.node, transaction)
        await leader.stop()
        cluster.log.append_now([b"of another program", b"", copied])
        again = await cluster.start("n1")
        await until(lambda: again.node.leads)
        await again.write(b"k", None)
        yield cluster
    finally:
        await cluster.stop()


async def accepted_in(log: MemoryLog, state: LogState = EMPTY) -> list[AcceptedRecord]:
    async with contextlib.aclosing(read_accepted(log, state, await bounds_of(log))) as read:
        return [record async for judged in read for record in judged.accepted]


async def history(log: MemoryLog, row: bytes) -> list[KeyChange]:
    return [change for it in await accepted_in(log) for change in history_of("test", row, it)]


async def test_changes_of_a_key_in_accepted_records(cluster: MemoryCluster) -> None:
    found = await history(cluster.log, b"k")
    assert [it.kind for it in found] == [ChangeKind.CREATED, ChangeKind.EXPIRY_CHANGED, ChangeKind.DELETED]
    assert [it.change.source.epoch for it in found] == [1, 1, 2]
    assert {it.leader.node for it in found if it.leader} == {"n1"}
    assert len({it.leader for it in found}) == 2  # processes
    fields = [(it.kind, it.change.field) for it in await history(cluster.log, b"h")]
    assert fields == [(ChangeKind.CREATED, name) for name in (b"a", b"b", None)]
    assert await history(cluster.log, b"one") == []  # in the records, but as a value


async def test_reading_goes_on_from_a_known_state(cluster: MemoryCluster) -> None:
    everything = await accepted_in(cluster.log)
    for at, known in enumerate(everything):
        assert await accepted_in(cluster.log, known.state) == everything[at + 1 :]
    other = everything[2].state._replace(chain=b"8 bytes.")
    with pytest.raises(LogDamage, match="the log holds another record at offset"):
        await accepted_in(cluster.log, other)


async def test_a_state_that_the_log_has_not_reached_is_refused(cluster: MemoryCluster) -> None:
    last = (await accepted_in(cluster.log))[-1].state
    cluster.log.truncate(last.leader_offset)
    with pytest.raises(LogDamage, match=f"it ended at {last.leader_offset}"):
        await accepted_in(cluster.log, last)


async def test_an_empty_log_has_no_records() -> None:
    assert await accepted_in(MemoryLog()) == []


def change(before: Image | None, after: Image | None, written_ms: int = 1000) -> Change:
    source = Source("shop", "00" * 16, Epoch(3), Offset(1520), Seq(1), 2, written_ms * 1000)
    return Change(Op.UPDATE, "kv", b"k", None, before, after, source, None)


@pytest.mark.parametrize(
    ("before", "after", "kind"),
    [
        (None, Image("string", b"1"), ChangeKind.CREATED),
        (Image("string", b"1"), Image("string", b"2"), ChangeKind.UPDATED),
        (Image("string", b"1", 5000), Image("string", b"2", 6000), ChangeKind.UPDATED),
        (Image("string", b"1", 5000), Image("string", b"1", 6000), ChangeKind.EXPIRY_CHANGED),
        (Image("string", b"1"), Image("string", b"1", 6000), ChangeKind.EXPIRY_CHANGED),
        (Image("hash", None, 5000), Image("hash", None), ChangeKind.EXPIRY_CHANGED),
        (Image("hash", None), Image("string", b"1"), ChangeKind.UPDATED),
        (Image("string", b"1"), None, ChangeKind.DELETED),
        (Image("string", b"1", 1001), None, ChangeKind.DELETED),
        (Image("string", b"1", 1000), None, ChangeKind.EXPIRED),
        (Image("string", b"1", 1000), Image("string", b"1"), ChangeKind.EXPIRY_CHANGED),
    ],
)
def test_kinds(before: Image | None, after: Image | None, kind: ChangeKind) -> None:
    assert kind_of(change(before, after)) is kind


def test_a_line_names_position_leader_and_values() -> None:
    found = KeyChange(ChangeKind.UPDATED, Author(NodeId("n2"), 7), change(Image("string", b"1"), Image("string", b"2")))
    line = describe(found, None).plain
    assert line.endswith('  1520-2        3 n2          updated         "1" → "2"')
    assert describe(found, 40).cell_len == 40
    assert found.as_json()["source"]["index"] == 2
    assert found.as_json()["incarnation"] == "0000000000000007"


def manifest(offset: int, topic_id: str = "log", taken_at_ms: int = 0) -> Manifest:
    return Manifest(f"s{offset}", "shop", topic_id, "", offset, 0, 0, "", "", 0, 0, "", taken_at_ms)


class TestStart:
    def test_an_untrimmed_log_is_read_from_its_first_record(self) -> None:
        start = choose_start([manifest(5)], LogBounds(Offset(0), Offset(9)), None)
        assert (start.base, start.is_trimmed) == (None, False)

    def test_a_trimmed_log_needs_a_snapshot_that_knows_the_state_at_its_begin(self) -> None:
        bounds = LogBounds(Offset(4), Offset(9))
        known = [manifest(2), manifest(3), manifest(7), manifest(20)]
        start = choose_start(known, bounds, None)
        assert (start.base, start.is_trimmed) == (known[1], True)
        with pytest.raises(LogTrimmed, match="begins at offset 4, because it was trimmed, and no snapshot"):
            choose_start(known[:1], bounds, None)
        with pytest.raises(LogTrimmed):
            choose_start(known[3:], bounds, None)

    def test_the_last_snapshot_before_the_first_wanted_offset_saves_reading(self) -> None:
        known = [manifest(WORTH_RECORDS), manifest(WORTH_RECORDS + 5)]
        bounds = LogBounds(Offset(0), Offset(WORTH_RECORDS + 10))

        def chosen(since: int) -> Manifest | None:
            return choose_start(known, bounds, Offset(since)).base

        assert chosen(WORTH_RECORDS + 6) == known[1]
        assert chosen(WORTH_RECORDS + 5) == known[0]
        assert chosen(WORTH_RECORDS) is None
        assert choose_start([manifest(3)], bounds, Offset(8)).base is None  # it would save little
        assert choose_start([manifest(3)], LogBounds(Offset(4), Offset(9)), Offset(5)).base == manifest(3)

    def test_the_log_of_a_restored_cluster_needs_a_snapshot_too(self) -> None:
        known, bounds = [manifest(2), manifest(7)], LogBounds(Offset(0), Offset(9))
        assert choose_start(known, bounds, None, is_restored=True) == (known[0], True)
        assert choose_start(known, bounds, Offset(8), is_restored=True) == (known[1], False)
        with pytest.raises(LogTrimmed, match="because its cluster was restored from a snapshot, and no snapshot"):
            choose_start([], bounds, None, is_restored=True)

    def test_times_allow_for_clocks_that_differ(self) -> None:
        known = [manifest(WORTH_RECORDS, taken_at_ms=0)]
        bounds = LogBounds(Offset(0), Offset(WORTH_RECORDS + 10))
        moment = datetime.fromtimestamp(CLOCK_MARGIN_MS / 1000, UTC)
        assert choose_start(known, bounds, moment).base is None
        assert choose_start(known, bounds, moment + timedelta(seconds=1)).base == known[0]

    def test_snapshots_of_other_logs_are_left_out(self) -> None:
        found = [manifest(7), manifest(3), manifest(5, "another"), replace(manifest(1), cluster="other")]
        assert of_log(found, "shop", "log") == [manifest(3), manifest(7)]


async def test_values_of_a_key_in_a_snapshot(cluster: MemoryCluster, tmp_path: Path) -> None:
    leader = await cluster.leader()
    await leader.write(b"h\0", b"sbeside")
    leader.machine.reserve_for_copy()
    taken = await asyncio.to_thread(snapshot.take, leader.machine.copy_to, tmp_path / "snapshots")
    store = tmp_path / "snapshots" / taken.name
    state = snapshot.meta_of(store).state

    def values(row: bytes) -> list[tuple[bytes | None, Image | None]]:
        found = values_in("test", store, taken.taken_at_ms, state, row)
        return [(it.change.field, it.change.after) for it in found]

    assert values(b"h") == [(None, Image("hash", None)), (b"a", Image("field", b"1")), (b"b", Image("field", b"2"))]
    assert values(b"h\0") == [(None, Image("string", b"beside"))]
    assert values(b"k") == []


class Noted:
    """`HistoryOutput`."""

    def __init__(self) -> None:
        self.restored: list[str] = []
        self.begins: list[Offset] = []
        self.kinds: list[ChangeKind] = []
        self.read = (0, 1)

    def show_restore(self, stored: StoredSnapshot) -> OnTransferred:
        self.restored.append(stored.name)
        return ignore

    def note_begin(self, start: Offset, base: Manifest, *, is_restored: bool) -> None:
        self.begins.append(start)

    def add(self, found: Iterable[KeyChange]) -> None:
        self.kinds += [it.kind for it in found]

    def show_progress(self, read: int, total: int) -> None:
        self.read = read, total


async def test_the_history_begins_in_a_snapshot_if_the_log_was_trimmed(cluster: MemoryCluster, tmp_path: Path) -> None:
    leader, repository = await cluster.leader(), Repository(str(tmp_path / "repository"))
    leader.machine.reserve_for_copy()
    taken = await asyncio.to_thread(snapshot.take, leader.machine.copy_to, tmp_path / "copies")
    repository.publish(tmp_path / "copies" / taken.name, taken, ignore)
    await leader.write(b"k2", b"sagain")
    first = Offset(taken.offset + 1)

    async def read(since: Offset | None = None, snapshots: Repository | None = repository) -> Noted:
        output = Noted()
        await read_history(cluster.log, "test", b"k2", since, snapshots, tmp_path / "views", output)
        assert output.read[0] == output.read[1]
        return output

    whole = await read()
    assert (whole.kinds, whole.begins, whole.restored) == ([ChangeKind.CREATED, ChangeKind.UPDATED], [], [])
    assert (await read(since=first)).kinds == [ChangeKind.UPDATED]
    cluster.log.trim(first)
    rest = await read()
    assert (rest.kinds, rest.begins) == ([ChangeKind.SNAPSHOT, ChangeKind.UPDATED], [first])
    assert rest.restored == [taken.name]
    later = await read(since=first)
    assert (later.kinds, later.begins, later.restored) == ([ChangeKind.UPDATED], [], [taken.name])
    assert not (tmp_path / "views").exists()
    with pytest.raises(LogTrimmed, match="no snapshot has the state before"):
        await read(snapshots=None)


def test_from_is_an_offset_or_a_time() -> None:
    assert _parse_since(None) is None
    assert _parse_since("1520") == 1520
    assert _parse_since("2026-01-31T12:00+00:00") == datetime(2026, 1, 31, 12, tzinfo=UTC)
    assert isinstance(_parse_since("10m"), datetime)
    for wrong in ("yesterday", "-1", "1520-3", "9" * 30):
        with pytest.raises(typer.BadParameter, match="expected an offset of the log, a time"):
            _parse_since(wrong)


@pytest.mark.kafka
@pytest.mark.timeout(240)
def test_the_history_on_kafka(kafka: str, tmp_path: Path) -> None:
    cluster = Cluster(tmp_path / "cluster", kafka)
    cluster.up(2)
    leader = cluster.leader(["n1", "n2"])
    client = cluster.client(leader)
    for value in ("1", "2", "3"):
        client.set("k", value)
    client.hset("h", mapping={"a": "1"})
    client.expire("k", 1000)
    taken = json.loads(cluster.run("snapshot", "take", "--json"))
    client.delete("k")
    for id in ("n1", "n2"):
        cluster.run("node", "stop", id)

    lines = cluster.run("history", "k").splitlines()
    words = ("created", "updated", "updated", "expiry changed", "deleted")
    assert len(lines) == len(words) and all(word in line for word, line in zip(words, lines, strict=True))
    assert all(f" {leader} " in line for line in lines)
    found = [json.loads(line) for line in cluster.run("history", "k", "--format", "json", "--limit", "2").splitlines()]
    assert [it["kind"] for it in found] == ["expiry changed", "deleted"]
    assert found[1]["before"]["value"] == "3" and found[1]["after"] is None
    offset = found[1]["source"]["offset"]
    assert [len(cluster.run("history", "k", "--from", it).splitlines()) for it in (str(offset), "1h")] == [1, 5]
    assert "has no change of nothing" in cluster.run("history", "nothing")

    by_kafka = ("history", "k", "--bootstrap", kafka, "--cluster", cluster.name)
    assert len(cluster.run(*by_kafka).splitlines()) == 5
    assert "there is no topic nowhere.wal" in cluster.run(*by_kafka[:-1], "nowhere", code=1)

    trim(kafka, cluster.name, Offset(taken["offset"] + 1))
    trimmed = cluster.run("history", "k")
    assert f"the history is complete from offset {taken['offset'] + 1} on" in trimmed
    assert trimmed.count("in snapshot") == 1 and trimmed.count("deleted  ") == 1 and "created" not in trimmed
    assert "does not exist" in cluster.run(*by_kafka, "--repository", str(tmp_path / "none"), code=1)
    (tmp_path / "none").mkdir()
    assert "no snapshot has the state before" in cluster.run(*by_kafka, "--repository", str(tmp_path / "none"), code=1)
    cluster.run("cluster", "down", "--purge")
