"""When a snapshot is due, which ones may be deleted, and how much of the log."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replicator.assembly import ms_before_now
from replicator.node.snapshots import ListedSnapshot
from replicator.position import Offset
from replicator.protocol.trimming import Need, first_need
from replicator.snapshots.retention import Schedule, Since, due, obsolete
from replicator.store.snapshot import Manifest

NEVER = Schedule(records=0, bytes=0, seconds=0)
MUCH = Since(records=10**9, bytes=10**12, seconds=1e6, has_changes=True)
TAKEN = st.lists(st.tuples(st.integers(0, 100), st.booleans()), max_size=12)


class TestDue:
    def test_each_limit_by_itself(self) -> None:
        assert due(NEVER, MUCH) is None
        assert due(replace(NEVER, records=5), replace(MUCH, records=4)) is None
        assert due(replace(NEVER, records=5), replace(MUCH, records=5)) == "5 records since the last one"
        assert due(replace(NEVER, bytes=1 << 20), replace(MUCH, bytes=1 << 20)) == "1 MiB of the log since the last one"
        assert due(replace(NEVER, seconds=60), replace(MUCH, seconds=59.9)) is None
        assert due(replace(NEVER, seconds=60), replace(MUCH, seconds=60.0)) == "60 s since the last one"

    def test_an_idle_cluster_needs_none(self) -> None:
        everything = Schedule(records=1, bytes=1, seconds=1)
        assert due(everything, replace(MUCH, records=0)) is None
        assert due(replace(NEVER, seconds=1), replace(MUCH, has_changes=False)) is None
        assert due(everything, replace(MUCH, has_changes=False)) is not None  # heartbeats fill the log, too


def snapshots(taken: list[tuple[int, bool]]) -> list[ListedSnapshot]:
    """Named after their place in the list: taken at so many seconds, and whether they are verified."""
    return [
        ListedSnapshot(
            Manifest(str(number), "", "", "", 0, 0, 0, "", "", 0, 0, "", taken_at_ms=at_s * 1000),
            verified_at_ms=1 if verified else None,
        )
        for number, (at_s, verified) in enumerate(taken)
    ]


class TestObsolete:
    def test_the_newest_verified_ones_stay(self) -> None:
        found = snapshots([(50, False), (40, True), (30, False), (20, True), (10, True), (5, True)])
        assert obsolete(found, keep=2, keep_s=0, now_ms=60_000) == ["2", "4", "5"]
        assert obsolete(found, keep=2, keep_s=51, now_ms=60_000) == ["5"]

    def test_too_few_verified_ones_keep_all(self) -> None:
        assert obsolete(snapshots([(50, False), (40, True), (30, False)]), keep=2, keep_s=0, now_ms=10**9) == []

    @given(TAKEN, st.integers(0, 5), st.integers(0, 100))
    def test_what_is_left_is_never_less_than_promised(
        self, taken: list[tuple[int, bool]], keep: int, keep_s: int
    ) -> None:
        found = snapshots(taken)
        deleted = set(obsolete(found, keep, keep_s, now_ms=100_000))
        left = [it for it in found if it.manifest.name not in deleted]
        verified = [it for it in found if it.verified_at_ms is not None]
        assert [it for it in left if it.verified_at_ms is not None][: max(1, keep)] == verified[: max(1, keep)]
        for it in found:
            if it.manifest.name in deleted:
                assert 100_000 - it.manifest.taken_at_ms >= keep_s * 1000
                assert found.index(it) > found.index(verified[0])


def test_the_first_need_decides() -> None:
    needs = [Need("snapshot s", Offset(9)), Need("replica n2", Offset(4)), Need("the change stream", Offset(7))]
    assert first_need(needs) == Need("replica n2", Offset(4))


def test_a_log_that_is_kept_for_ever() -> None:
    """Of negative times, Kafka takes -1 for the end of the log and refuses most others."""
    assert ms_before_now(2**31 - 1) == ms_before_now(10**400) == 0
    assert ms_before_now(3600) == pytest.approx((time.time() - 3600) * 1000, abs=5000)
