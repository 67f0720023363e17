"""Prometheus metrics: what they say, that `promtool` has no complaint, and that docs/metrics.md lists them."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from replicator.errors import LogDamage, NoReplicas, NotLeader, ReplicatorError, Unknown
from replicator.intervals import STREAMING_ACK_MS
from replicator.node.commit_times import PRECISION, SPACING_MS, CommitTimes
from replicator.node.latencies import LATENCY_BOUNDS_S, Histogram
from replicator.node.snapshots import SnapshotReport
from replicator.position import NodeId, Offset
from replicator.protocol.healing import Cause, Damage, Heal
from replicator.records.types import VERSION, Mode, Policy
from replicator.server.http.metrics import MetricsInput, render
from replicator.server.redis.turns import Turns
from replicator.server.stats import Stats
from replicator.store.view import Transaction
from tests.memory_cluster import RunningNode, until
from tests.modes_cluster import ALL, ModesCluster, begin_write
from tests.test_redis_connection import Stage
from tools.metrics_doc import PAGE, described, example, regenerated

ASYNC, SYNC = Mode.ASYNC, Mode.SYNC

Samples = dict[str, float]
"""By name and labels, as the text format has them."""


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[ModesCluster]:
    cluster = ModesCluster(tmp_path)
    yield cluster
    await cluster.stop()


def parsed(text: str) -> Samples:
    return {
        sample.name + "".join(f"{{{key}={value}}}" for key, value in sample.labels.items()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def metrics(running: RunningNode) -> Samples:
    node = running.node
    observed = MetricsInput(node.status(), Stats(), "c", node.latencies, node.replica_lags)
    return parsed(render(observed).decode())


# The text


@pytest.mark.skipif(shutil.which("promtool") is None, reason="no promtool (Debian: package prometheus)")
def test_promtool_has_no_complaint() -> None:
    check = subprocess.run(["promtool", "check", "metrics"], input=render(example()), capture_output=True, check=False)
    assert (check.returncode, check.stdout + check.stderr) == (0, b"")


@pytest.mark.skipif(shutil.which("promtool") is None, reason="no promtool (Debian: package prometheus)")
def test_promtool_accepts_the_expressions_of_the_page(tmp_path: Path) -> None:
    expressions = re.findall(
        r"^\| `([^`]+)` \|[^|]*\|$", PAGE.read_text().partition("## What to watch")[2], re.MULTILINE
    )
    assert len(expressions) > 10
    rules = tmp_path / "rules.yml"
    recorded = [{"record": f"watch:{number}", "expr": text} for number, text in enumerate(expressions)]
    rules.write_text(json.dumps({"groups": [{"name": "page", "rules": recorded}]}))  # which is YAML, too
    check = subprocess.run(["promtool", "check", "rules", str(rules)], capture_output=True, text=True, check=False)
    assert check.returncode == 0, check.stdout + check.stderr


def test_snapshots_of_other_clusters_do_not_count() -> None:
    """The repository of a restored cluster has those of the former one, too."""
    [own] = example().snapshots.snapshots or ()
    former = replace(own, manifest=replace(own.manifest, cluster="shop", offset=900, taken_at_ms=900_000))
    own = replace(own, manifest=replace(own.manifest, cluster="shop-2", offset=9, taken_at_ms=1_000_000))
    for snapshots, count, offset in (((former, own), 1, 9), ((former,), 0, None)):
        values = replace(example(), cluster="shop-2", snapshots=SnapshotReport(snapshots))
        found = parsed(render(values).decode())
        assert found["replicator_snapshots"] == count
        assert found.get("replicator_snapshot_offset") == found.get("replicator_snapshot_verified_offset") == offset
        assert found.get("replicator_snapshot_timestamp_seconds") == (offset and 1000)


def test_snapshots_of_a_former_log_do_not_count() -> None:
    """The topic of the log was deleted: the new log begins at offset 0 again."""
    [own] = example().snapshots.snapshots or ()
    former = replace(own, manifest=replace(own.manifest, topic_id="former", offset=900, taken_at_ms=900_000))
    own = replace(own, manifest=replace(own.manifest, topic_id="present", offset=9, taken_at_ms=1_000_000))
    status = replace(example().status, topic_id="present")
    for snapshots, count, offset in (((own, former), 1, 9), ((former, own), 1, 9), ((former,), 0, None)):
        found = parsed(render(replace(example(), status=status, snapshots=SnapshotReport(snapshots))).decode())
        assert found["replicator_snapshots"] == count
        assert found.get("replicator_snapshot_offset") == found.get("replicator_snapshot_verified_offset") == offset
        assert found.get("replicator_snapshot_timestamp_seconds") == (offset and 1000)


def test_a_heal_of_a_former_process_is_known_by_its_time() -> None:
    """A counter that is 1 before a restart and 1 after it has not increased."""
    healed = Heal(Damage(Cause.TRUNCATED, "the log has lost its end", 0), "s1", 5, healed_at_ms=9_500)
    for status, time_s in ((example().status, 0), (replace(example().status, healed=healed), 9.5)):
        found = parsed(render(replace(example(), status=status)).decode())
        assert found["replicator_last_heal_timestamp_seconds{cause=truncated}"] == time_s
        assert found["replicator_last_heal_timestamp_seconds{cause=diverged}"] == 0


def test_units_are_base_units() -> None:
    names = [metric.name for metric in described()]
    assert len(set(names)) == len(names)
    assert not [name for name in names if re.search(r"_(ms|us|milliseconds|minutes|kb|mb|bits)(_|$)", name)]
    for metric in described():
        assert re.fullmatch(r"[A-Z][^|]+\.", metric.documentation), metric.name


def test_the_page_is_up_to_date() -> None:
    page = PAGE.read_text()
    assert page == regenerated(page), "docs/metrics.md is stale: run `python -m tools.metrics_doc`"


def test_the_page_names_only_metrics_that_exist() -> None:
    known = {re.sub(r"\{.*", "", name) for name in parsed(render(example()).decode())}
    known |= {name.removesuffix("_count") for name in known}
    assert set(re.findall(r"(?:replicator|process)_[a-z_]+", PAGE.read_text())) <= known


def test_the_page_cites_the_interval_of_acks() -> None:
    assert f"every {STREAMING_ACK_MS / 1000:g} s" in PAGE.read_text()


def test_the_build_and_the_version_of_records() -> None:
    text = render(example()).decode()
    [build] = re.findall(r"^replicator_build_info\{(.*)\} 1.0$", text, re.MULTILINE)
    assert re.search(r'build="(compiled|interpreted)"', build) and f'record_version="{VERSION}"' in build
    assert parsed(text)["replicator_record_version"] == VERSION


def test_a_node_that_waits_for_kafka_says_so() -> None:
    observed = example()
    waiting = replace(observed, status=replace(observed.status, kafka_answers=False))
    assert [parsed(render(it).decode())["replicator_kafka_up"] for it in (observed, waiting)] == [1, 0]


# Histograms


def test_a_bound_belongs_to_the_bucket_below_it() -> None:
    stats = Stats()
    for latency_s in (LATENCY_BOUNDS_S[0], 0.0006, 0.0006, 99.0):
        stats.reads.observe(latency_s)
    stats.reads.observe(0.002, 5)
    samples = parsed(render(MetricsInput(example().status, stats)).decode())
    name = "replicator_command_duration_seconds"
    buckets = {
        bound: samples[f"{name}_bucket{{kind=read}}{{le={bound}}}"]
        for bound in ("5e-05", "0.0005", "0.001", "0.0025", "10.0", "+Inf")
    }
    assert buckets == {"5e-05": 1, "0.0005": 1, "0.001": 3, "0.0025": 8, "10.0": 8, "+Inf": 9}
    assert samples[f"{name}_count{{kind=read}}"] == stats.reads.count == 9
    assert samples[f"{name}_sum{{kind=read}}"] == pytest.approx(LATENCY_BOUNDS_S[0] + 0.0012 + 99 + 0.01)
    assert samples[f"{name}_count{{kind=write}}"] == 0


class ManualClock:
    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def timed_stage() -> tuple[Stage, ManualClock]:
    clock = ManualClock()
    turns = Turns(clock)
    turns.until_s = float("inf")
    return Stage(turns), clock


def totals(histogram: Histogram) -> tuple[int, float]:
    return histogram.count, round(histogram.sum_s, 6)


async def test_a_write_lasts_until_it_is_acknowledged() -> None:
    stage, clock = timed_stage()
    await stage.step(b"SET a 1; SET b 2; PING")
    clock.now_s += 0.25
    await stage.step("acked")
    assert totals(stage.server.stats.writes) == (1, 0.25)
    clock.now_s += 0.5
    await stage.step("refused")
    assert totals(stage.server.stats.writes) == (2, 1.0)
    assert totals(stage.server.stats.reads) == (0, 0)


async def test_writes_that_are_answered_together_last_since_each_of_them_began() -> None:
    stage, clock = timed_stage()
    await stage.step(b"SET a 1; SET b 2; PING")
    clock.now_s += 0.5
    await stage.step(b"SET c 3; PING")
    clock.now_s += 0.25
    for done in stage.backend.unacked:
        done(None, Offset(1))
    await stage.step(b"PING")
    stats = stage.server.stats
    assert totals(stats.writes) == (3, 1.75)
    assert [count for count in stats.writes.counts if count] == [1, 2]


@pytest.mark.parametrize(
    ("before", "line", "after", "reads"),
    [
        ("", b"GET k; GET x; PING; SCAN 0", "", (3, 0)),
        ("behind", b"GET k; GET x", "log end", (2, 0.5)),  # the second one begins when the first one ends
        ("key blocked", b"GET x; GET k", "answered", (2, 0.5)),
        ("", b"MULTI; GET k; EXEC", "answered", (1, 0.5)),
        ("behind", b"GET k", "stale", (1, 0.5)),
        ("", b"SET a 1; GET a", "acked", (1, 0.5)),
        ("", b"WAIT 2 0", "two replicas", (0, 0)),
    ],
    ids=["at once", "level", "blocked key", "transaction", "stale", "own writes", "not a read"],
)
async def test_a_read_lasts_until_it_is_answered(
    before: str, line: bytes, after: str, reads: tuple[int, float]
) -> None:
    stage, clock = timed_stage()
    if before:
        await stage.step(before)
    await stage.step(line)
    clock.now_s += 0.5
    if after:
        await stage.step(after)
    assert stage.state == ""
    assert totals(stage.server.stats.reads) == reads


async def test_the_stages_of_writes(cluster: ModesCluster) -> None:
    await cluster.set_up(ALL, ASYNC, SYNC)
    leader, follower = cluster.n1.node.latencies, cluster.n2.node.latencies
    before = leader.append.count, leader.ack.count, leader.apply.count, follower.apply.count
    await cluster.n1.write(b"k", b"v")
    await cluster.caught_up()
    after = leader.append.count, leader.ack.count, leader.apply.count, follower.apply.count
    assert all(later > earlier for earlier, later in zip(before, after, strict=True))
    assert (follower.append.count, follower.ack.count) == (0, 0)
    assert metrics(cluster.n1)["replicator_stage_duration_seconds_count{stage=append}"] >= after[0]


async def test_writes_that_wait_for_no_replica_are_not_in_the_stage_ack(cluster: ModesCluster) -> None:
    await cluster.set_up(Policy(), ASYNC, ASYNC)
    await cluster.n1.write(b"k", b"v")
    assert cluster.n1.node.latencies.ack.count == 0


# Lag


async def test_the_lag_of_a_leader_that_waits_for_a_replica(cluster: ModesCluster) -> None:
    await cluster.set_up(ALL, ASYNC, SYNC)
    cluster.acks.hold("n2")
    node = cluster.n1.node
    applied = node._context.replica.state.offset
    now_us = node._context.clock.wall_us()
    writing = begin_write(cluster.n1, b"k", b"v")
    await until(lambda: len(cluster.log.entries) > applied + 1)
    status = await node.current_status()
    assert status.end_offset > status.applied_offset
    waited_ms = (node._context.clock.wall_us() - now_us) / 1000
    assert 0 < status.lag_ms <= waited_ms + node.timing.heartbeat_ms + 1  # it was hours, if it last followed hours ago
    cluster.acks.let("n2")
    await writing


async def test_the_lag_of_replicas(cluster: ModesCluster) -> None:
    await cluster.set_up(Policy(), ASYNC, ASYNC, ASYNC)
    cluster.acks.hold("n2")
    await cluster.n1.write(b"k", b"v")
    name = "replicator_replica_lag_{}{{replica={}}}".format
    await until(lambda: metrics(cluster.n1)[name("seconds", "n2")] > 0.2)
    await cluster.acked(cluster.n3)
    samples = metrics(cluster.n1)
    assert samples[name("records", "n2")] >= 1
    assert samples[name("records", "n3")] < samples[name("records", "n2")]
    assert name("records", "n1") not in samples
    assert name("records", "n2") not in metrics(cluster.n2)
    cluster.acks.let("n2")
    await until(lambda: metrics(cluster.n1)[name("seconds", "n2")] < 0.2)


async def test_a_replica_that_has_not_acked_in_this_term_lags_since_the_term_began(cluster: ModesCluster) -> None:
    await cluster.set_up(Policy(), ASYNC, ASYNC)
    cluster.acks.hold("n1")
    await cluster.n1.stop()
    await cluster.take_over(cluster.n2)
    await cluster.n2.write(b"k", b"v")
    lag = cluster.n2.node.replica_lags[NodeId("n1")]
    assert 1 <= lag.records < cluster.n2.machine.state.offset
    await until(lambda: cluster.n2.node.replica_lags[NodeId("n1")].seconds > 0.1)


def test_commit_times_are_coarser_the_longer_ago_they_were() -> None:
    times, end = CommitTimes(), 200_000
    assert times.waiting_ms(Offset(0), 5.0) == 0
    for number in range(end + 1):
        times.note(Offset(number), number * SPACING_MS)
        times.note(Offset(number), number * SPACING_MS + 1)  # too soon after the one before
    assert len(times) < 1000
    now_ms = end * SPACING_MS + 50
    for records in (1, 10, 100, 1000, 10_000, end - 1):
        committed_ms = (records - 1) * SPACING_MS + 50
        waiting_ms = times.waiting_ms(Offset(end - records), now_ms)
        assert (1 - PRECISION) * committed_ms <= waiting_ms <= committed_ms, records
    assert times.waiting_ms(Offset(end), now_ms) == 0
    times.clear()
    assert times.waiting_ms(Offset(0), now_ms) == 0


async def test_where_records_come_from(cluster: ModesCluster) -> None:
    await cluster.set_up(Policy(), ASYNC, ASYNC)
    name = "replicator_record_source{{source={}}}".format
    assert [metrics(cluster.n2)[name(it)] for it in ("kafka", "leader")] == [1, 0]
    assert [metrics(cluster.n1)[name(it)] for it in ("kafka", "leader")] == [0, 0]
    cluster.n2.link.stream_limit = 1
    await until(lambda: metrics(cluster.n2)[name("leader")] == 1)


# The outcomes of writes


class RefusingStage(Stage):
    def __init__(self, error: ReplicatorError) -> None:
        super().__init__()

        def begin() -> Transaction:
            raise error

        self.backend.begin = begin  # type: ignore[method-assign]


@pytest.mark.parametrize(
    ("error", "code"),
    [(NotLeader("no"), "READONLY"), (NoReplicas("no"), "NOREPLICAS"), (LogDamage("no"), "ERR")],
    ids=["follower", "no replicas", "failed node"],
)
@pytest.mark.parametrize("line", [b"SET k v", b"MULTI; SET k v", b"REPL.ONCE id SET k v"])
async def test_a_write_that_is_refused_at_once_is_counted_by_its_error(
    error: ReplicatorError, code: str, line: bytes
) -> None:
    stage = RefusingStage(error)
    await stage.step(line)
    stats = stage.server.stats
    assert {code: count for code, count in stats.rejections.items() if count} == {code: 1}
    assert (stats.writes_ok, stats.writes_rejected, stats.writes_unknown) == (0, 1, 0)


async def test_the_outcomes_of_writes() -> None:
    stage = Stage()
    await stage.step(b"SET a 1; SET b 2; SET c 3; GET")
    await stage.step("acked")
    await stage.step("refused")
    stage.backend.unacked.pop()(Unknown(7, "was sent"), Offset(7))
    samples = parsed(render(MetricsInput(example().status, stage.server.stats)).decode())
    assert [samples[f"replicator_writes_total{{outcome={it}}}"] for it in ("ok", "rejected", "unknown")] == [1, 1, 1]
    assert samples["replicator_rejected_writes_total{code=NOREPLICAS}"] == 1
    assert samples["replicator_rejected_writes_total{code=READONLY}"] == 0
