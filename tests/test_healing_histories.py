"""Histories of clients while a sync follower, and then the leader, find their stores damaged and rebuild them.

Each history must be consistent with its read levels, as in `tests/test_histories.py`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from replicator.store import replacement
from tests.damage import flip
from tests.process_cluster import Cluster
from tests.recorded_checks import canonical_of, violations
from tests.recorder import Recorder, until
from tests.test_histories import IDS, READS, WRITES, set_policy

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(120)]


@pytest.fixture(scope="module")
def cluster(kafka: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    cluster = Cluster(tmp_path_factory.mktemp("cluster"), kafka)
    cluster.up(3)
    yield cluster
    cluster.run("cluster", "down", "--purge")


async def damage(cluster: Cluster, id: str, content: bytes) -> None:
    """Damage the store of a node, which no client reads there, and wait until it is rebuilt."""
    folder = cluster.folder.node_dir(id)
    (folder / replacement.HEALS).unlink(missing_ok=True)
    assert flip(folder / "store", content)
    await until(lambda: bool(replacement.heals(folder)) and cluster.node(id)["node"]["state"] == "serving")


@pytest.mark.parametrize("mode", ["async", "sync", "suspend", "invalidate"])
async def test_the_history_is_consistent_while_stores_are_rebuilt(
    cluster: Cluster, capsys: pytest.CaptureFixture[str], mode: str
) -> None:
    leader, first, _ = set_policy(cluster, mode)
    ports = {id: cluster.folder.load().node(id).resp_port for id in IDS}
    content = f"<not read, {mode}".encode()
    cluster.client(leader).set("not read", content + b">")
    cluster.caught_up()
    async with Recorder(mode, ports, leader, keys=3, writers=3, readers=9) as recorder:
        await recorder.wait_for_more(WRITES, READS)
        await damage(cluster, first, content)
        await recorder.wait_for_more(WRITES, READS)
        await damage(cluster, leader, content)
        await recorder.wait_for_more(WRITES, READS)
    canonical = await canonical_of(cluster.bootstrap, cluster.name)
    with capsys.disabled():
        print(f"\n{mode}, OK/REJECTED/UNKNOWN: {recorder}")
    assert not violations(recorder.history, canonical)
    members = {it["node"]: it["mode"] for it in cluster.node(first)["members"]}
    assert members[first] == ("async" if mode == "async" else "sync")
    await asyncio.to_thread(cluster.caught_up)
