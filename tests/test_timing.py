"""The timing that all nodes follow: its relations, its first record, and changes of it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from math import inf
from pathlib import Path
from unittest.mock import patch

import pytest

from replicator.errors import BadRequest, Busy, ConfigError, NotLeader
from replicator.limits import MAX_TIMING_MS
from replicator.log.memory import MemoryLog
from replicator.node.timing import TimingChanges
from replicator.position import NodeId, Offset
from replicator.protocol.timing import LoggedTiming, Timeouts, TimingState, check, old_lease_ms
from replicator.records.codec import RecordCodec
from replicator.records.types import Heartbeat, Mode, Timing
from replicator.store.machine import open_machine
from tests.memory_cluster import FaultyLog, MemoryCluster, RunningNode, until
from tests.modes_cluster import ASYNC, STEADY, SUSPEND, SYNC, A, ModesCluster, begin_write, read

LONG = Timing(lease_ms=2_000, election_ms=2_200, follower_lease_ms=1_000)
SHORT = replace(LONG, lease_ms=600, follower_lease_ms=600)  # the election timeout is still that of LONG
FAST = replace(SHORT, election_ms=660)
QUICK = Timing(heartbeat_ms=20, lease_ms=50, election_ms=30_000, follower_lease_ms=50)  # two changes need 55 ms


def settled(timing: Timing) -> TimingState:
    return TimingState(timing, None, 0)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"lease_ms": 700}, r"election_ms \(750\) must be at least lease_ms x 1.1 \(770\), or a new leader may write"),
        ({"follower_lease_ms": 700}, r"at least follower_lease_ms x 1.1 \(770\), or .* a replica that was removed"),
        ({"heartbeat_ms": 301}, r"lease_ms \(600\) must be at least twice heartbeat_ms \(301\)"),
        ({"sync_ms": 499}, r"sync_ms \(499\) must be at least twice heartbeat_ms \(250\)"),
        ({"heartbeat_ms": 0}, "heartbeat_ms is 0: it must be at least 1"),
        ({"follower_lease_ms": 0}, "follower_lease_ms is 0: it must be at least 1"),
        ({"step_ms": -1}, "step_ms is -1: it must be at least 0"),
        ({"election_ms": MAX_TIMING_MS + 1}, "and at most 86400000"),
    ],
)
def test_an_unsafe_timing_is_refused(changed: dict[str, int], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        check(Timing(**changed))


def test_an_election_timeout_of_exactly_the_longest_old_lease_is_safe() -> None:
    check(Timing(lease_ms=600, election_ms=660))
    settled(Timing(lease_ms=600, election_ms=660)).check_change(Timing(lease_ms=500, election_ms=660), 0)


@pytest.mark.parametrize("name", ["answer_ms", "read_ms"])
def test_a_timeout_is_at_least_1_ms(name: str) -> None:
    with pytest.raises(ConfigError, match=f"{name} must be at least 1"):
        Timeouts(**{name: 0})


def test_an_election_timeout_respects_the_leases_before_the_change() -> None:
    with pytest.raises(BadRequest, match=r"election_ms \(660\) must be at least 2200 .* leases of 2000 ms"):
        settled(LONG).check_change(FAST, 0)
    settled(LONG).check_change(SHORT, 0)
    settled(SHORT).check_change(FAST, 0)
    settled(FAST).check_change(LONG, 0)


def test_the_next_change_is_refused_until_leases_of_the_former_timing_have_expired() -> None:
    state = settled(LONG).read(SHORT, now_ms=1_000)
    with pytest.raises(Busy, match="try again after 1 ms"):
        state.check_change(FAST, 3_199)
    state.check_change(FAST, 3_200)


def test_both_timings_count_while_their_leases_may_be_held() -> None:
    state = settled(LONG).read(SHORT, now_ms=1_000)
    assert (state.longest_lease_ms(3_199), state.longest_lease_ms(3_200)) == (2_000, 600)
    assert (state.longest_follower_lease_ms(3_199), state.longest_follower_lease_ms(3_200)) == (1_000, 600)
    longer = settled(SHORT).read(LONG, now_ms=1_000)
    assert longer.longest_lease_ms(1_000) == longer.longest_lease_ms(9_000) == 2_000


def test_a_record_that_is_read_again_changes_nothing() -> None:
    state = settled(LONG).read(SHORT, now_ms=1_000)
    assert state.read(SHORT, now_ms=9_000) == state
    logged = LoggedTiming().after(LONG).after(SHORT)
    assert logged == logged.after(SHORT) == LoggedTiming(SHORT, LONG)


def test_a_process_that_starts_does_not_know_when_the_timing_has_changed() -> None:
    state = TimingState.opened(LoggedTiming(SHORT, LONG), Timing(), now_ms=5_000)
    assert state == TimingState(SHORT, LONG, 5_000)
    assert state.longest_lease_ms(5_000) == 2_000


def test_without_a_record_there_are_no_leases_of_this_timing_but_others_may_be_held() -> None:
    state = TimingState.opened(LoggedTiming(), LONG, now_ms=5_000)
    assert (state.current.lease_ms, state.current.follower_lease_ms, state.since_ms) == (0, 0, inf)
    assert state.current.election_ms == LONG.election_ms
    assert state.longest_lease_ms(1e9) == 2_000
    assert state.read(SHORT, now_ms=6_000).former_left_ms(6_000) == 0


def test_the_timing_is_part_of_the_store_and_of_its_copies(tmp_path: Path) -> None:
    machine = open_machine(tmp_path / "store", "test", "topic", map_bytes=1 << 20)
    assert machine.timing == LoggedTiming()  # as in a store of an older version
    machine.apply([LONG], machine.state)
    machine.apply([SHORT], machine.state)
    (tmp_path / "copy").mkdir()
    machine.copy_to(tmp_path / "copy")
    machine.close()
    for folder in ("store", "copy"):
        machine = open_machine(tmp_path / folder, "test", "topic", map_bytes=1 << 20)
        assert machine.timing == LoggedTiming(SHORT, LONG)
        machine.close()


# Nodes


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[MemoryCluster]:
    cluster = MemoryCluster(tmp_path, QUICK, FaultyLog())
    yield cluster
    await cluster.stop()


def timings(log: MemoryLog) -> list[Timing]:
    """All records of the timing."""
    codec = RecordCodec()
    bodies = [codec.decode(entry.payload, b"").body for entry in log.entries]
    return [body for body in bodies if isinstance(body, Timing)]


async def follows(running: RunningNode, timing: Timing) -> None:
    await until(lambda: running.node.logged_timing == timing)
    assert running.node.timing == timing


async def test_nodes_follow_the_config_of_the_first_leader(
    cluster: MemoryCluster, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, logger="replicator.node.timing")
    first = await cluster.start("n1")
    await follows(first, QUICK)
    cluster.timing = replace(QUICK, lease_ms=40, election_ms=20_000)
    second = await cluster.start("n2", priority=1)
    assert second.node.timing.lease_ms == 0
    await follows(second, QUICK)
    assert second.node.status().ignored_timing == {"election_ms": 20_000, "lease_ms": 40}
    assert first.node.status().ignored_timing == {}
    assert [record.getMessage() for record in caplog.records] == [
        f"timing.{name} is {own} in the config of this node, but the cluster has {its}: `replicator cluster timing` "
        "changes it, the config does not"
        for name, own, its in (("election_ms", 20_000, 30_000), ("lease_ms", 40, 50))
    ]
    assert timings(cluster.log) == [QUICK]


async def test_a_leader_has_no_lease_before_the_log_has_a_timing(cluster: MemoryCluster) -> None:
    log = cluster.log
    assert isinstance(log, FaultyLog)
    log.fault, log.fault_at = "refuse", RecordCodec().encode_body(QUICK)
    leader = await cluster.start("n1")
    await until(lambda: not log.fault)
    await leader.write(b"a", b"s1")
    assert leader.node.lease_left_ms == 0
    await until(lambda: leader.node.lease_left_ms > 0)  # the record was repeated
    assert timings(log) == [QUICK]


async def test_a_log_of_an_older_version_gets_a_timing_from_the_next_leader(cluster: MemoryCluster) -> None:
    cluster.timing = replace(QUICK, election_ms=60)
    with patch.object(TimingChanges, "append_first", lambda self: None):
        leader = await cluster.start("n1")
        await cluster.leader()
        await leader.write(b"a", b"s1")
        await leader.stop()
    assert not timings(cluster.log)
    leader = await cluster.start("n1")
    assert leader.node.logged_timing is None
    await until(lambda: leader.node.lease_left_ms > 0)
    assert leader.get(A) == b"s1"
    assert timings(cluster.log) == [cluster.timing]


async def test_only_what_is_given_changes_and_all_nodes_follow(cluster: MemoryCluster) -> None:
    first = await cluster.start("n1")
    second = await cluster.start("n2", priority=1)
    await follows(second, QUICK)
    await follows(first, QUICK)
    changed = replace(QUICK, sync_ms=2_000, jitter_ms=7)
    assert first.node.timing_changes.change({"sync_ms": 2_000, "jitter_ms": 7}) == changed
    await follows(first, changed)
    await follows(second, changed)
    await second.stop()
    second = await cluster.start("n2", priority=1)
    assert second.node.timing == changed
    assert second.node.status().ignored_timing == {"jitter_ms": 50, "sync_ms": 1_000}
    third = await cluster.start("n3", priority=2)
    await follows(third, changed)
    with pytest.raises(NotLeader):
        second.node.timing_changes.change({"sync_ms": 3_000})


async def test_a_change_is_refused_while_another_is_not_settled(cluster: MemoryCluster) -> None:
    leader = await cluster.start("n1")
    await follows(leader, QUICK)
    changes, changed = leader.node.timing_changes, replace(QUICK, jitter_ms=1)
    changes.change({"jitter_ms": 1})
    with pytest.raises(Busy, match="not in effect yet"):
        changes.change({"jitter_ms": 2})
    await follows(leader, changed)
    assert changes.change({"jitter_ms": 1}) == changed  # it is in effect already
    with pytest.raises(Busy, match="may still be held: try again after"):
        changes.change({"jitter_ms": 2})
    for settings, words in (({"leese_ms": 1}, "unknown setting timing.leese_ms"), ({"election_ms": 10}, "at least")):
        with pytest.raises(ConfigError, match=words):
            changes.change(settings)
    clock = leader.node._context.clock
    await clock.sleep(old_lease_ms(QUICK.lease_ms))
    changes.change({"jitter_ms": 2})
    await follows(leader, replace(QUICK, jitter_ms=2))


async def test_a_change_of_unknown_outcome_is_resolved_as_any_record(cluster: MemoryCluster) -> None:
    leader = await cluster.start("n1")
    await follows(leader, QUICK)
    log = cluster.log
    assert isinstance(log, FaultyLog)
    changed = replace(QUICK, jitter_ms=1)
    log.fault, log.fault_at = "lose answer", RecordCodec().encode_body(changed)
    leader.node.timing_changes.change({"jitter_ms": 1})
    await follows(leader, changed)
    await until(lambda: leader.node.lease_left_ms > 0)
    assert timings(log) == [QUICK, changed]


async def test_a_removed_replica_that_has_not_read_the_change_is_waited_for(tmp_path: Path) -> None:
    cluster = ModesCluster(tmp_path, replace(STEADY, follower_lease_ms=1_000))
    await cluster.set_up(SUSPEND, ASYNC, SYNC, SYNC)
    await cluster.n1.write(b"a", b"s0")
    await until(lambda: not any(it.machine.suspended for it in cluster.nodes.values()))
    assert await read(cluster.n3, A) == b"s0"
    cluster.stall(cluster.n3)
    cluster.n1.node.timing_changes.change({"follower_lease_ms": 10})
    await until(lambda: cluster.n1.node.timing.follower_lease_ms == 10)  # committed; n3 has not acked it
    assert cluster.n1.node.logged_timing == cluster.timing
    cluster.n1.node.membership_changes.set_mode(NodeId("n3"), Mode.ASYNC)
    writing = begin_write(cluster.n1, b"a", b"s1")
    at_n3 = cluster.n3.node.reads.at_follower
    while at_n3.reads_locally:
        assert not writing.done()
        assert await read(cluster.n3, A) == b"s0"
        await asyncio.sleep(0.005)
    assert isinstance(await writing, int)
    await cluster.stop()


async def test_a_removal_waits_by_the_timing_that_precedes_it_in_the_same_append(tmp_path: Path) -> None:
    cluster = ModesCluster(tmp_path, replace(STEADY, follower_lease_ms=200))
    await cluster.set_up(SUSPEND, ASYNC, SYNC, SYNC)
    append, held, answered = cluster.log.append, asyncio.Event(), asyncio.Event()

    async def hold(payloads: Sequence[bytes]) -> Offset:
        held.set()
        await answered.wait()
        return await append(payloads)

    node = cluster.n1.node
    with patch.object(cluster.log, "append", hold):
        node._context.enqueue_own(Heartbeat())
        await held.wait()
        node.timing_changes.change({"follower_lease_ms": 10_000})
        node.membership_changes.set_mode(NodeId("n3"), Mode.ASYNC)
        answered.set()
        await until(lambda: node._context.roles.write_from_ms > 0)
    assert node._context.roles.write_from_ms - node._context.clock.elapsed_ms() > 5_000
    await cluster.stop()
