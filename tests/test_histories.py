"""Histories of clients of real processes on a real Kafka, in each write mode and at each read level, while nodes are
stopped and killed. Each history must be consistent with its read levels.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import hiredis
import pytest

from replicator.chaos.redis_connection import RedisConnection
from replicator.position import Offset
from tests.process_cluster import Cluster, stopped
from tests.recorded_checks import canonical_of, suspend_offset, violations
from tests.recorder import Recorder, until

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(120)]

IDS = ["n1", "n2", "n3"]
SYNC_MS = 1500
# A process is stopped for less than its follower lease, then for longer than the bound of bounded reads. Both times are
# shorter than the sync timeout.
PAUSES_S = (0.3, 1.0)
WRITES, READS = 50, 12  # to be answered after each fault


@pytest.fixture(scope="module")
def cluster(kafka: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    cluster = Cluster(tmp_path_factory.mktemp("cluster"), kafka)
    cluster.environment["REPLICATOR_TIMING_SYNC_MS"] = str(SYNC_MS)
    cluster.up(3)
    yield cluster
    cluster.run("cluster", "down", "--purge")


def set_policy(cluster: Cluster, mode: str, wait_for: str = "all") -> tuple[str, str, str]:
    """Set the write mode, with both followers sync unless it is async. Returns the leader and the followers."""
    leader = cluster.leader(IDS)
    others = [id for id in IDS if id != leader]
    if mode != "async":
        modes = {member["node"]: member["mode"] for member in cluster.node(leader)["members"]}
        for id, wanted in (*((id, "sync") for id in others), (leader, "async")):
            if modes[id] != wanted:
                cluster.run("replica", "set-mode", id, wanted)
    cluster.run("cluster", "policy", wait_for, "--write", mode)
    return leader, others[0], others[1]


async def kill_and_start(cluster: Cluster, id: str, *_: Recorder) -> None:
    cluster.kill(id)
    await asyncio.to_thread(cluster.run, "node", "start", id)


async def depose(cluster: Cluster, leader: str, recorder: Recorder) -> None:
    """Stop the leader until another node is leader and accepts writes, then resume it."""
    with stopped(cluster.pid(leader)):
        await asyncio.to_thread(cluster.leader, [id for id in IDS if id != leader])
        await recorder.wait_for_more(WRITES, READS)


@pytest.mark.parametrize(
    ("mode", "wait_for", "lose_leader"),
    [
        ("async", "all", kill_and_start),
        ("sync", "all", depose),
        ("sync", "quorum:1", depose),
        ("suspend", "all", kill_and_start),
        ("invalidate", "all", depose),
    ],
)
async def test_the_history_of_all_clients_is_consistent(
    cluster: Cluster,
    capsys: pytest.CaptureFixture[str],
    mode: str,
    wait_for: str,
    lose_leader: Callable[[Cluster, str, Recorder], Awaitable[None]],
) -> None:
    leader, first, second = set_policy(cluster, mode, wait_for)
    ports = {id: cluster.folder.load().node(id).resp_port for id in IDS}
    async with Recorder(f"{mode} {wait_for}", ports, leader, keys=3, writers=3, readers=9) as recorder:
        await recorder.wait_for_more(WRITES, READS)
        for pause_s in PAUSES_S:
            with stopped(cluster.pid(first)):
                await asyncio.sleep(pause_s)
            await recorder.wait_for_more(WRITES, READS)
        await kill_and_start(cluster, second)
        await recorder.wait_for_more(WRITES, READS)
        await lose_leader(cluster, leader, recorder)
        await recorder.wait_for_more(WRITES, READS)
    canonical = await canonical_of(cluster.bootstrap, cluster.name)
    with capsys.disabled():
        print(f"\n{mode} {wait_for}, OK/REJECTED/UNKNOWN: {recorder}")
    assert not violations(recorder.history, canonical)


class SeparateConnections:
    """Sends each command on its own connection, so that none waits for another."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster

    async def ask(self, id: str, *command: str, timeout_s: float = 20) -> Any:
        connection = RedisConnection(self._cluster.folder.load().node(id).resp_port, "")
        try:
            return await connection.ask(timeout_s, *command)
        finally:
            connection.close()

    async def read(self, id: str, level: str, key: str) -> Any:
        return await self.ask(id, "REPL.READ", level, "GET", key)

    def begin_read(self, id: str, level: str, key: str) -> asyncio.Task[Any]:
        return asyncio.create_task(self.read(id, level, key))

    async def shows(self, id: str, key: str, value: bytes) -> None:
        """Wait until the node's store has that value."""
        async with asyncio.timeout(20):
            while await self.read(id, "eventual", key) != value:  # noqa: ASYNC110 (no event signals it)
                await asyncio.sleep(0.005)

    async def answers(self, *ids: str) -> None:
        """Wait until the nodes have received everything sent to them before."""
        for id in ids:
            for _ in range(5):
                assert await self.ask(id, "PING") == b"PONG"


@pytest.fixture
def asking(cluster: Cluster) -> SeparateConnections:
    return SeparateConnections(cluster)


async def test_in_sync_mode_a_replica_shows_a_value_before_the_leader_but_linearizable_reads_never_go_back(
    cluster: Cluster, asking: SeparateConnections
) -> None:
    leader, first, second = set_policy(cluster, "sync")
    assert await asking.ask(leader, "SET", "anomaly", "old") == b"OK"
    with stopped(cluster.pid(second)):
        writing = asyncio.create_task(asking.ask(leader, "SET", "anomaly", "new"))
        await asking.shows(first, "anomaly", b"new")
        assert await asking.read(leader, "eventual", "anomaly") == b"old"
        assert await asking.read(first, "linearizable", "anomaly") == b"new"
        reading = asking.begin_read(leader, "linearizable", "anomaly")
        await asking.answers(leader)
        assert await asking.read(leader, "eventual", "anomaly") == b"old"
        assert not reading.done() and not writing.done()
    assert await reading == b"new"
    assert await writing == b"OK"


@pytest.mark.parametrize("mode", ["suspend", "invalidate"])
async def test_no_replica_answers_a_linearizable_read_with_a_value_before_all_sync_members_can(
    cluster: Cluster, asking: SeparateConnections, mode: str
) -> None:
    leader, first, second = set_policy(cluster, mode)
    assert await asking.ask(leader, "SET", mode, "old") == b"OK"
    for id in IDS:
        assert await asking.read(id, "linearizable", mode) == b"old"
    end = Offset(cluster.node(leader)["node"]["end_offset"])
    with stopped(cluster.pid(second)):
        writing = asyncio.create_task(asking.ask(leader, "SET", mode, "new"))
        if mode == "suspend":
            suspended = await suspend_offset(mode.encode(), cluster.bootstrap, cluster.name, end)
            await until(lambda: cluster.node(first)["node"]["applied_offset"] >= suspended)
        else:
            await asking.shows(first, mode, b"new")
        reading = [asking.begin_read(id, "linearizable", mode) for id in (leader, first)]
        await asking.answers(leader, first)
        assert await asking.read(leader, "eventual", mode) == b"old"
        assert not writing.done() and not any(it.done() for it in reading)
    assert await asyncio.gather(*reading) == [b"new", b"new"]
    assert await writing == b"OK"
    for id in IDS:
        assert await asking.read(id, "linearizable", mode) == b"new"


async def test_without_its_sync_members_a_leader_refuses_writes_answers_reads_and_recovers_by_itself(
    cluster: Cluster, asking: SeparateConnections
) -> None:
    leader, first, second = set_policy(cluster, "sync")
    assert await asking.ask(leader, "SET", "calm", "value") == b"OK"
    with stopped(cluster.pid(second)):
        await until(lambda: bool(cluster.node(leader)["node"]["refusal"]))
        refusal = await asking.ask(leader, "SET", "refused", "value")
        assert isinstance(refusal, hiredis.ReplyError)
        assert str(refusal).startswith("NOREPLICAS ") and second in str(refusal) and first not in str(refusal)
        for id in (leader, first):
            for level in ("eventual", "bounded 500", "linearizable"):
                assert await asking.ask(id, "REPL.READ", *level.split(), "GET", "calm") == b"value"
    await until(lambda: not cluster.node(leader)["node"]["refusal"])
    assert await asking.ask(leader, "SET", "calm", "again") == b"OK"
    for id in IDS:
        assert await asking.read(id, "linearizable", "calm") == b"again"
        assert await asking.read(id, "linearizable", "refused") is None
