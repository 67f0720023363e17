"""The current term, its start and its reason: as recorded by nodes, and as reported to operators and programs."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, cast

import pytest

from replicator.address import Address
from replicator.cli.output import print_whole
from replicator.cli.status import draw
from replicator.local.admin_client import ClusterAdmin
from replicator.local.status import MemberInfo, MemberStatus, parse_status
from replicator.local.summary import summarise
from replicator.node.health import NodeState
from replicator.node.term_history import TermHistory
from replicator.position import Author, Epoch, NodeId, Offset
from replicator.records.types import VERSION, Claim, Header, Reason
from replicator.server.http.metrics import MetricsInput, render
from replicator.server.stats import Stats
from tests.memory_cluster import FaultyLog, MemoryCluster, until
from tests.redis_fixture import STEADY


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[MemoryCluster]:
    cluster = MemoryCluster(tmp_path)
    yield cluster
    await cluster.stop()


async def test_every_node_reports_the_same_last_claim(cluster: MemoryCluster) -> None:
    await cluster.start("n1")
    await cluster.leader()
    await cluster.start("n2", priority=1)
    await cluster.caught_up()
    first, second = (running.node.status() for running in cluster.nodes.values())
    assert first.elected is not None and first.elected == second.elected
    assert (first.elected.epoch, first.elected.leader, first.elected.before) == (1, "n1", None)
    assert (first.elected.reason, first.elected.offset) == (Reason.FIRST, 0)
    assert first.term_ms is not None and 0 <= first.term_ms < 60_000
    assert first.claims == second.claims == {**dict.fromkeys(Reason, 0), Reason.FIRST: 1}


async def test_an_election_names_the_leader_whose_heartbeat_timed_out(cluster: MemoryCluster) -> None:
    first = await cluster.start("n1")
    await cluster.start("n2", priority=1)
    await cluster.leader()
    await cluster.caught_up()
    await first.stop()
    status = (await cluster.leader()).node.status()
    assert status.elected is not None
    assert (status.elected.epoch, status.elected.leader, status.elected.before) == (status.epoch, "n2", "n1")
    assert (status.elected.reason, status.elected.why) == (Reason.ELECTION, "the heartbeat of n1 timed out")
    assert status.claims[Reason.FIRST] == status.claims[Reason.ELECTION] == 1


async def test_resolving_an_unknown_outcome_starts_a_term_of_the_same_leader(cluster: MemoryCluster) -> None:
    log = cluster.log = FaultyLog()
    leader = await cluster.start("n1")
    await cluster.leader()
    log.fault = "lose answer"
    await leader.write(b"a", b"s1")
    await until(lambda: leader.node.status().epoch > 1)
    status = leader.node.status()
    assert status.elected is not None
    assert (status.elected.leader, status.elected.before, status.elected.reason) == ("n1", "n1", Reason.RESOLVE)
    assert status.claims[Reason.RESOLVE] >= 1


async def test_a_node_that_has_not_read_the_claim_reports_no_reason(cluster: MemoryCluster) -> None:
    await cluster.start("n1")
    await cluster.leader()
    follower = await cluster.start("n2", priority=1)
    await cluster.caught_up()
    await follower.stop()
    again = await cluster.start("n2", priority=1)
    await until(lambda: again.node.state is NodeState.SERVING)
    status = again.node.status()
    assert (status.epoch, status.leader) == (1, "n1")
    assert (status.elected, status.term_ms, sum(status.claims.values())) == (None, None, 0)


@pytest.mark.parametrize(
    ("reason", "why"),
    [
        (Reason.FIRST, "the log was empty"),
        (Reason.ELECTION, "the heartbeat of n1 timed out"),
        (Reason.RESOLVE, "the outcome of its last append was unknown"),
        (Reason.HANDOVER, "n1 transferred leadership"),
        (Reason.FORCE, "forced by an operator"),
    ],
)
def test_each_reason_has_a_description(reason: Reason, why: str) -> None:
    old, new = Author(NodeId("n1"), 1), Author(NodeId("n2"), 2)
    elections = TermHistory()
    header = Header(VERSION, bytes(16), Epoch(2), new, seq=cast(Any, 0), timestamp_us=5_000_000, chain=bytes(8))
    elections.note(old, Offset(9), header, Claim(new, Epoch(2), Offset(8), reason))
    assert elections.last is not None
    assert (elections.last.why, elections.last.offset, elections.counts[reason]) == (why, 9, 1)
    assert elections.last.age_ms(7_500_000) == 2_500
    assert elections.last.age_ms(1) == 0  # by a clock that lags behind


async def test_claims_are_counted_by_reason_in_the_metrics(cluster: MemoryCluster) -> None:
    leader = await cluster.start("n1")
    await cluster.leader()
    lines = render(MetricsInput(leader.node.status(), Stats())).decode().splitlines()
    assert 'replicator_claims_total{reason="first"} 1.0' in lines
    assert 'replicator_claims_total{reason="election"} 0.0' in lines
    assert "replicator_epoch 1.0" in lines


def test_info_reports_the_term(client: Any) -> None:
    info = client.info("replicator")
    assert (info["term_reason"], info["term_why"]) == ("first", "the log was empty")
    assert info["term_ms"] >= 0
    assert 0 <= info["lease_left_ms"] <= STEADY.lease_ms


class FakeStatuses:
    """A cluster whose nodes have the statuses that a test gives."""

    def __init__(self, *nodes: dict[str, Any]) -> None:
        self._nodes = nodes

    def statuses(self) -> list[MemberStatus]:
        member = MemberInfo("n", "async", Address("h", 1), Address("h", 2), priority=0)
        replies = [{"cluster": "c", "members": [], "node": {"state": "serving", **node}} for node in self._nodes]
        return [MemberStatus(member, parse_status(reply)) for reply in replies]


WHY = {"epoch": 7, "reason": "election", "why": "the heartbeat of n1 timed out"}
ELECTED = {**WHY, "leader": "n2", "before": "n1", "offset": 9, "at_ms": 1_000}
OLD = {"id": "n1", "role": "leader", "epoch": 6, "leader": "n1", "lease_left_ms": 99.0, "elected": None}
LEADER = {"id": "n2", "role": "leader", "epoch": 7, "leader": "n2", "lease_left_ms": 540.4, "elected": None}
FOLLOWER = {"id": "n3", "role": "follower", "epoch": 7, "leader": "n2", "lease_left_ms": 0.0, "term_ms": 12_345.0}


@pytest.mark.parametrize(
    ("nodes", "text"),
    [
        (
            [OLD, LEADER, {**FOLLOWER, "elected": ELECTED}],
            "epoch 7: n2 has been leader for 12 s (election: the heartbeat of n1 timed out), lease left 540 ms",
        ),
        ([LEADER, {**FOLLOWER, "elected": {**ELECTED, "epoch": 6}}], "epoch 7: n2 is leader, lease left 540 ms"),
        ([{**FOLLOWER, "elected": ELECTED, "term_ms": 300_000.0}], "epoch 7: n2 has been leader for 5 min (election: "),
        ([{**FOLLOWER, "elected": ELECTED, "term_ms": 1e9}], "epoch 7: n2 has been leader for 277 h (election: "),
        ([{**FOLLOWER, "leader": None, "epoch": 0}], "epoch 0: no leader"),
        ([{"id": "n1", "state": "unreachable"}], "epoch 0: no leader"),
    ],
)
def test_status_reports_the_reason_if_any_node_knows_it(
    nodes: list[dict[str, Any]], text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    print_whole(*draw(summarise(cast(ClusterAdmin, FakeStatuses(*nodes)))))
    assert text in capsys.readouterr().out


def test_the_json_reports_the_same() -> None:
    summary = summarise(cast(ClusterAdmin, FakeStatuses(OLD, LEADER, {**FOLLOWER, "elected": ELECTED}))).as_json()
    assert summary["elected"] == {**ELECTED, "term_ms": 12_345.0}
    assert summary["lease_left_ms"] == 540
    assert summarise(cast(ClusterAdmin, FakeStatuses(OLD, {**FOLLOWER, "elected": None}))).lease_left_ms is None
