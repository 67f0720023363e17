"""`replicator snapshot open`: a read-only view of the past."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import redis
import typer
from hypothesis import given
from hypothesis import strategies as st

from replicator.address import Address
from replicator.cli.options import parse_target
from replicator.errors import ConfigError, LogTrimmed, NotLeader, SnapshotError, Stale
from replicator.local.ports import random_free_port
from replicator.local.snapshots import newest_before
from replicator.log.kafka.admin import trim
from replicator.position import Epoch, Offset, Token
from replicator.protocol.levels import LINEARIZABLE, Level, LevelKind
from replicator.recovery.accepted_log import Judged, LogBounds, bounds_of, read_accepted
from replicator.recovery.past_backend import PastBackend
from replicator.recovery.past_view import bring_to, remove_expired, replay_to
from replicator.recovery.roll_forward import RecoveryTarget, check_reachable, check_target, cut
from replicator.recovery.temporary import temporary_store
from replicator.server.keyspace import Keyspace, WritableKeyspace
from replicator.server.redis.execution import Replay
from replicator.server.redis.server import RedisServer
from replicator.snapshots.repository import Repository
from replicator.store import snapshot
from replicator.store.machine import Machine, open_machine
from replicator.store.snapshot import Manifest
from tests.copies import restore_copy
from tests.memory_cluster import MemoryCluster, SetWallClock, submit
from tests.process_cluster import Cluster, wait_for

BEGIN_MS = 1_700_000_000_000


class Past:
    """A log with one write for each second, a snapshot after the third, and the digest after each."""

    def __init__(self, cluster: MemoryCluster, folder: Path, taken: Manifest) -> None:
        self.cluster = cluster
        self.folder = folder
        self.taken = taken
        self.digests: dict[Offset, str] = {}  # by offset of a write
        self.written_ms: dict[Offset, int] = {}

    @property
    def offsets(self) -> list[Offset]:
        return sorted(self.digests)

    def restored(self, store: Path) -> Machine:
        restore_copy(self.folder / self.taken.name, store)
        return open_machine(store, "test", self.taken.topic_id)

    async def digest_at(self, target: RecoveryTarget, store: Path) -> tuple[str, Offset]:
        machine = self.restored(store)
        try:
            past = await bring_to(machine, self.taken, self.cluster.log, target, Replay(), lambda done, all: None)
            assert machine.recount() == (machine.meta.digest, machine.meta.entries)
            return past.digest, past.offset
        finally:
            machine.close()


@pytest.fixture
async def past(tmp_path: Path) -> AsyncIterator[Past]:
    clock = SetWallClock(BEGIN_MS)
    cluster = MemoryCluster(tmp_path / "nodes", clock=clock)
    try:
        await cluster.start("n1")
        leader = await cluster.leader()
        written: list[tuple[Offset, str, int]] = []
        taken: Manifest | None = None
        for number in range(8):
            clock.now_ms += 1000
            transaction = leader.node.begin()
            keyspace = WritableKeyspace(transaction, clock.now_ms)
            keyspace.put_string(b"k", b"%d" % number)
            keyspace.put_fields(b"h", {b"f%d" % number: b"1"})
            if number == 4:
                keyspace.put_string(b"brief", b"1", expires_at_ms=clock.now_ms + 1500)
            offset = await submit(leader.node, transaction)
            written.append((offset, f"{leader.machine.meta.digest:032x}", clock.now_ms))
            if number == 2:
                leader.machine.reserve_for_copy()
                taken = await asyncio.to_thread(snapshot.take, leader.machine.copy_to, tmp_path / "snapshots")
        assert taken is not None
        past = Past(cluster, tmp_path / "snapshots", taken)
        for offset, digest, now_ms in written[2:]:
            past.digests[offset], past.written_ms[offset] = digest, now_ms
        yield past
    finally:
        await cluster.stop()


def moment(ms: int) -> datetime:
    return datetime.fromtimestamp(ms / 1000, UTC)


async def test_the_store_at_each_offset_and_time_is_that_of_the_leader_then(past: Past, tmp_path: Path) -> None:
    for offset in past.offsets:
        store = tmp_path / f"at-{offset}"
        assert await past.digest_at(offset, store) == (past.digests[offset], offset)
        for late_ms in (0, 999):  # the next write follows after a second
            store = tmp_path / f"{offset}-{late_ms}"
            digest, _ = await past.digest_at(moment(past.written_ms[offset] + late_ms), store)
            assert digest == past.digests[offset]


async def test_without_a_snapshot_the_log_is_applied_from_its_start(past: Past, tmp_path: Path) -> None:
    log = past.cluster.log

    async def at(target: RecoveryTarget, name: str) -> tuple[str, Offset]:
        machine = open_machine(tmp_path / name, "test", past.taken.topic_id)
        try:
            found = await replay_to(machine, log, target, Replay(), lambda done, all: None)
            assert machine.recount() == (machine.meta.digest, machine.meta.entries)
            return found.digest, found.offset
        finally:
            machine.close()

    for offset in past.offsets:
        assert await at(offset, f"at-{offset}") == (past.digests[offset], offset)
    assert (await at(moment(past.written_ms[past.offsets[1]]), "time"))[0] == past.digests[past.offsets[1]]
    assert (await at(Offset(0), "first"))[1] == 0
    with pytest.raises(ConfigError, match="no record from before that time"):
        await at(moment(BEGIN_MS - 1), "early")
    log.trim(Offset(1))
    with pytest.raises(LogTrimmed, match="begins at offset 1, because it was trimmed"):
        await at(past.offsets[0], "trimmed")


async def test_targets_that_cannot_be_reached(past: Past, tmp_path: Path) -> None:
    first, end = past.offsets[0], await past.cluster.log.end()

    async def refused(target: RecoveryTarget, match: str, error: type[Exception] = ConfigError) -> None:
        with pytest.raises(error, match=match):
            await past.digest_at(target, tmp_path / "store")
        if error is not SnapshotError:  # as it is known before the snapshot is restored
            with pytest.raises(error, match=match):
                await check_target(past.cluster.log, past.taken, target)

    await refused(Offset(past.taken.offset - 1), f"is before the snapshot, which is at offset {past.taken.offset}")
    await refused(end, f"offset {end} is beyond the end of the log, whose last offset is {end - 1}")
    await refused(moment(past.written_ms[first] - 1), "has records that were written after .*: choose an older")
    await refused(datetime.now(UTC) + timedelta(hours=1), "is in the future")
    past.cluster.log.trim(Offset(past.taken.offset + 2))
    await refused(past.offsets[-1], "the records from .* on, after the snapshot, were deleted", LogTrimmed)
    past.cluster.log.identity = "another"
    await refused(past.offsets[-1], "is of another log .* it can be used as it is only", SnapshotError)


async def test_a_time_is_compared_with_the_snapshot_also_if_its_records_were_deleted(
    past: Past, tmp_path: Path
) -> None:
    past.cluster.log.trim(Offset(past.taken.offset + 1))
    with pytest.raises(ConfigError, match="choose an older snapshot"):
        await past.digest_at(moment(BEGIN_MS), tmp_path / "store")


@given(st.integers(-5, 30), st.integers(0, 20), st.integers(0, 10), st.integers(0, 10))
def test_which_offsets_can_be_reached(target: int, first: int, start: int, length: int) -> None:
    bounds = LogBounds(Offset(start), Offset(start + length))
    try:
        check_reachable(Offset(target), Offset(first), bounds)
    except (ConfigError, LogTrimmed):
        assert target < first - 1 or target >= bounds.end or first < start
    else:
        assert first - 1 <= target < bounds.end and start <= first


async def test_a_time_cuts_before_the_first_later_record(past: Past) -> None:
    log = past.cluster.log
    judged = [
        it
        async for it in read_accepted(log, snapshot.meta_of(past.folder / past.taken.name).state, await bounds_of(log))
    ]
    whole = Judged(judged[0].before, judged[-1].state, [record for it in judged for record in it.accepted])
    for target_ms in range(BEGIN_MS, BEGIN_MS + 10_000, 500):
        found, is_complete = cut(whole, moment(target_ms))
        kept = len(found.accepted)
        assert all(it.record.header.timestamp_us <= target_ms * 1000 for it in found.accepted)
        assert is_complete == (kept < len(whole.accepted))
        if is_complete:
            assert whole.accepted[kept].record.header.timestamp_us > target_ms * 1000
            assert found.state == (found.accepted[-1].state if kept else whole.before)
    assert cut(whole, Offset(1)) == (whole, False)


async def test_keys_that_had_expired_by_then_are_gone(past: Past, tmp_path: Path) -> None:
    for offset in past.offsets:
        machine = past.restored(tmp_path / f"store-{offset}")
        state = await bring_to(machine, past.taken, past.cluster.log, offset, Replay(), lambda done, all: None)
        assert state.written_ms == past.written_ms[offset]
        remove_expired(machine, state.written_ms)
        keys = [row for row, _ in Keyspace(machine.view, state.written_ms).rows()]
        is_there = BEGIN_MS + 5000 <= state.written_ms < BEGIN_MS + 6500
        assert keys == ([b"brief"] if is_there else []) + [b"h", b"k"]
        machine.close()


async def test_clients_can_read_and_not_write(past: Past, tmp_path: Path) -> None:
    machine = past.restored(tmp_path / "store")
    state = await bring_to(machine, past.taken, past.cluster.log, past.offsets[3], Replay(), lambda done, all: None)
    backend = PastBackend(machine, state)
    server = RedisServer(backend, Address("127.0.0.1", 0), cluster="test", protected=True)
    await server.start()
    try:
        await asyncio.to_thread(read_everything, server.port, past.offsets[3])
    finally:
        await server.close()
    own = Token(state.timeline, state.offset)
    assert backend.reads.view(Level(LevelKind.SESSION, token=own)) is machine.view
    for level, match in (
        (LINEARIZABLE, "are for the present, and this is cluster test as of offset"),
        (Level(LevelKind.BOUNDED, 5), "bounded reads are for the present"),
        (Level(LevelKind.SESSION, token=own._replace(offset=Offset(state.offset + 1))), "the token is of offset"),
        (Level(LevelKind.SESSION, token=own._replace(timeline="0" * 32)), "is of timeline"),
    ):
        with pytest.raises(Stale, match=match):
            backend.reads.view(level)
    with pytest.raises(NotLeader, match="ask the leader"):
        await backend.committed_offset(b"", Epoch(1))
    machine.close()


def read_everything(port: int, offset: Offset) -> None:
    with redis.Redis(port=port, socket_timeout=10) as client:
        assert client.get("k") == b"5"
        assert client.hlen("h") == 6
        assert client.dbsize() == 3 and sorted(client.scan_iter()) == [b"brief", b"h", b"k"]
        assert 0 < client.pttl("brief") <= 1500  # at the time of the record, not now
        assert client.mget("k", "nothing") == [b"5", None]
        assert [client.info("replicator")[name] for name in ("applied_offset", "state")] == [offset, "serving"]
        assert client.role()[0] == b"slave"
        assert client.wait if client.info("replication")["role"] == "slave" else None
        for write in (
            ("SET", "k", "1"),
            ("DEL", "k"),
            ("FLUSHALL",),
            ("EXPIRE", "k", "10"),
            ("REPL.ONCE", "a", "INCR", "k"),
        ):
            with pytest.raises(redis.ResponseError, match="this is a read-only view of cluster test as of offset"):
                client.execute_command(*write)
        with pytest.raises(redis.ResponseError, match="cannot be used with replica instances"):
            client.execute_command("WAIT", "1", "0")
        pipe = client.pipeline(transaction=True)
        pipe.get("k")
        pipe.hget("h", "f1")
        assert pipe.execute() == [b"5", b"1"]
        with pytest.raises(redis.ReadOnlyError, match="read-only view"):
            client.pipeline(transaction=True).get("k").set("k", "1").execute()
        assert not client.xread({"replicator:changes": "$"}, block=1)
        assert client.get("k") == b"5"


def test_a_temporary_store_is_removed_also_after_a_kill(tmp_path: Path) -> None:
    parent = tmp_path / "views"
    with temporary_store(parent) as store:
        used = store.parent
        killed = parent / "store-left"
        killed.mkdir()
        (killed / "owner.lock").touch()
        with temporary_store(parent) as other:
            assert used.exists() and other.parent.exists() and not killed.exists()
        assert used.exists() and not other.parent.exists()
    assert not parent.exists()


def test_options() -> None:
    assert parse_target(None, None) is None
    assert parse_target(0, None) == 0
    assert parse_target(None, "2026-01-31T12:00+00:00") == datetime(2026, 1, 31, 12, tzinfo=UTC)
    with pytest.raises(typer.BadParameter, match="not both"):
        parse_target(1, "10m")
    with pytest.raises(typer.BadParameter, match="expected a time such as"):
        parse_target(None, "noon")


def test_there_may_be_no_snapshot(tmp_path: Path) -> None:
    with pytest.raises(SnapshotError, match="there is no snapshot in"):
        newest_before(Repository(str(tmp_path)), None, None)


async def test_the_newest_snapshot_before_the_target_is_chosen(past: Past, tmp_path: Path) -> None:
    repository = Repository(str(tmp_path / "repository"))
    machine = past.restored(tmp_path / "store")
    for number, offset in enumerate(past.offsets):
        await bring_to(machine, past.taken, past.cluster.log, offset, Replay(), lambda done, all: None)
        taken = snapshot.take(machine.copy_to, tmp_path / "copies")
        dated = replace(taken, taken_at_ms=BEGIN_MS + number)
        repository.publish(tmp_path / "copies" / taken.name, dated, lambda size: None)
    machine.close()

    def chosen(target: RecoveryTarget | None, cluster: str | None = "test") -> int:
        return newest_before(repository, cluster, target).manifest.offset

    first, second, *_, last = past.offsets
    assert chosen(None) == chosen(None, None) == chosen(Offset(last + 5)) == last
    assert chosen(second) == second and chosen(Offset(second - 1)) == first
    assert chosen(moment(BEGIN_MS)) == first and chosen(moment(BEGIN_MS + 1)) == second
    for early in (Offset(first - 1), moment(BEGIN_MS - 1)):
        with pytest.raises(SnapshotError, match=f"no snapshot of cluster test before that .* is at offset {first}"):
            chosen(early)
    with pytest.raises(SnapshotError, match="there is no snapshot of cluster other in"):
        chosen(None, "other")


@contextmanager
def opened(cluster: Cluster, *args: str) -> Iterator[tuple[Any, Any]]:
    """A client of `snapshot open`, and what it printed."""
    command = [sys.executable, "-m", "replicator", "snapshot", "open", *args, "--json", "--dir", str(cluster.dir)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=cluster.environment)
    try:
        assert process.stdout is not None
        shown = json.loads(process.stdout.readline())
        with redis.Redis(port=shown["port"], socket_timeout=10) as client:
            yield client, shown
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0
    finally:
        process.kill()
        process.wait()


@pytest.mark.kafka
@pytest.mark.timeout(240)
def test_time_travel_on_kafka(kafka: str, tmp_path: Path) -> None:
    cluster = Cluster(tmp_path / "cluster", kafka)
    cluster.up(1)
    client = cluster.client(cluster.leader(["n1"]))
    client.set("k", "old")
    taken = json.loads(cluster.run("snapshot", "take", "--json"))
    client.set("k", "new")
    written = json.loads(cluster.run("history", "k", "--limit", "1", "--format", "json"))["source"]
    client.set("k", "newest")
    client.pexpire("k", 60_000)
    cluster.run("node", "stop", "n1")

    with opened(cluster, taken["name"]) as (view, shown):
        assert view.get("k") == b"old" and shown["offset"] == taken["offset"]
        with opened(cluster, "--offset", str(written["offset"])) as (other, shown):
            assert other.get("k") == b"new" and shown["offset"] == written["offset"]
            assert view.get("k") == b"old"
    with opened(cluster, "--time", datetime.fromtimestamp(written["ts_us"] / 1e6).isoformat()) as (view, shown):
        assert view.get("k") == b"new" and shown["written_ms"] == written["ts_ms"]
    assert not (cluster.dir / "views").exists()

    before, beyond = str(taken["offset"] - 1), "1000000"
    assert "is before the snapshot" in cluster.run("snapshot", "open", taken["name"], "--offset", before, code=1)
    with opened(cluster, "--offset", before) as (view, shown):  # from the start of the log
        assert shown["offset"] == taken["offset"] - 1 and view.get("k") in (None, b"old")
    assert "is beyond the end of the log" in cluster.run("snapshot", "open", "--offset", beyond, code=1)
    assert "is in the future" in cluster.run("snapshot", "open", "--time", "2999-01-01", code=1)
    assert "there is no snapshot" in cluster.run("snapshot", "open", f"{0:020d}-00000000", code=1)
    assert "invalid name of a snapshot" in cluster.run("snapshot", "open", "../snapshots/" + taken["name"], code=1)
    with socket.create_server(("127.0.0.1", 0)) as used:
        port = str(used.getsockname()[1])
        assert f"port {port} is in use" in cluster.run("snapshot", "open", "--port", port, code=1)
    foreign = ("--bootstrap", kafka, "--cluster", "other")
    assert f"is of cluster {cluster.name}, not other" in cluster.run(
        "snapshot", "open", taken["name"], *foreign, code=1
    )

    trim(kafka, cluster.name, Offset(written["offset"]))
    offset = str(written["offset"])
    refused = cluster.run("snapshot", "open", "--offset", before, code=1)
    assert "there is no snapshot" in refused and "because it was trimmed" in refused
    assert "after the snapshot, were deleted" in cluster.run("snapshot", "open", "--offset", offset, code=1)
    manifest = cluster.dir / "snapshots" / taken["name"] / "manifest.json"
    fields = json.loads(manifest.read_text())
    fields["manifest"]["format"] = 99
    manifest.write_text(json.dumps(fields))
    assert "has format 99" in cluster.run("snapshot", "open", taken["name"], code=1)
    assert not (cluster.dir / "views").exists()
    cluster.run("cluster", "down", "--purge")


@pytest.mark.kafka
@pytest.mark.timeout(240)
def test_a_view_that_was_killed_leaves_nothing_behind(kafka: str, tmp_path: Path) -> None:
    cluster = Cluster(tmp_path / "cluster", kafka)
    cluster.up(1)
    cluster.client(cluster.leader(["n1"])).set("k", "1")
    cluster.run("snapshot", "take")
    command = [sys.executable, "-m", "replicator", "snapshot", "open", "--json", "--dir", str(cluster.dir)]
    port = random_free_port()
    killed = subprocess.Popen([*command, "--port", str(port)], stdout=subprocess.DEVNULL, env=cluster.environment)
    wait_for(lambda: redis_answers(port))
    os.kill(killed.pid, signal.SIGKILL)
    killed.wait()
    [left] = (cluster.dir / "views").iterdir()
    with opened(cluster) as (view, _):
        assert view.get("k") == b"1" and not left.exists()
    assert not (cluster.dir / "views").exists()
    cluster.run("cluster", "down", "--purge")


def redis_answers(port: int) -> bool:
    try:
        with redis.Redis(port=port, socket_timeout=10) as client:
            return bool(client.ping())
    except redis.ConnectionError:
        return False
