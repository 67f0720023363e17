"""Which damage is repaired, how often, and from which snapshots (`protocol.healing`)."""

from __future__ import annotations

from typing import NamedTuple

import pytest

from replicator import errors
from replicator.errors import (
    BrokerUnavailable,
    ConfigError,
    Diverged,
    LogDamage,
    LogEnded,
    LogReplaced,
    LogTrimmed,
    LogTruncated,
    Replaced,
    ReplicatorError,
    StoreError,
    StoreFull,
    StoreUnreadable,
    UpgradeNeeded,
)
from replicator.protocol.healing import (
    HEAL_BACKOFF_MS,
    HEAL_WINDOW_MS,
    MAX_HEALS,
    START_OF_LOG,
    Attempt,
    Cause,
    Damage,
    GiveUp,
    Heal,
    Wanted,
    cause_of,
    mismatch,
    plan,
)

NOW_MS = 10 * HEAL_WINDOW_MS


@pytest.mark.parametrize(
    ("error", "cause"),
    [
        (Diverged("x", 7), Cause.DIVERGED),
        (LogTruncated("x"), Cause.TRUNCATED),
        (LogTrimmed("x"), Cause.TRIMMED),
        (StoreUnreadable("x"), Cause.UNREADABLE),
        (StoreError("x"), None),
        (LogDamage("x"), Cause.SUSPECTED),
        (LogReplaced("x"), None),
        (LogEnded("x"), None),
        (StoreFull("x"), None),
        (UpgradeNeeded("x"), None),
        (Replaced("x"), None),
        (ConfigError("x"), None),
        (BrokerUnavailable("x"), None),
        (errors.Busy("x"), None),
    ],
)
def test_the_cause_of_an_error(error: ReplicatorError, cause: Cause | None) -> None:
    assert cause_of(error) is cause


def damage(record: int | None = None, cause: Cause = Cause.DIVERGED) -> Damage:
    return Damage(cause, "it differs", NOW_MS, 100, "00", record)


def heal(age_ms: int, record: int | None = None, source: str = "s1", cause: Cause = Cause.DIVERGED) -> Heal:
    return Heal(damage(record, cause), source, 50, NOW_MS - age_ms)


def test_the_first_time_the_store_is_rebuilt_at_once() -> None:
    assert plan(damage(7), [], NOW_MS) == Attempt(0, set())
    assert plan(damage(7), [heal(HEAL_WINDOW_MS, 7)], NOW_MS) == Attempt(0, set())


def test_it_is_rebuilt_later_and_later_and_then_not_any_more() -> None:
    heals: list[Heal] = []
    delays = []
    while isinstance(decision := plan(damage(), heals, NOW_MS), Attempt):
        delays.append(decision.delay_ms)
        heals.append(heal(1_000))
    assert delays == [0, *(HEAL_BACKOFF_MS * factor for factor in (1, 2, 4, 8))]
    assert len(delays) == MAX_HEALS
    assert "restart of the node tries again" in decision.why


def test_a_snapshot_that_led_to_the_same_damage_is_not_used_again() -> None:
    heals = [heal(3_000, 7, "s3"), heal(2_000, 8, "s2"), heal(1_000, None, "s1")]
    decision = plan(damage(7), heals, NOW_MS)
    assert isinstance(decision, Attempt) and decision.excluded == {"s3"}
    decision = plan(damage(None), heals, NOW_MS)
    assert isinstance(decision, Attempt) and decision.excluded == set()


def test_a_record_from_which_the_whole_log_differs_is_wrong_itself() -> None:
    decision = plan(damage(7), [heal(3_000, 7, START_OF_LOG)], NOW_MS)
    assert isinstance(decision, GiveUp) and "the record is wrong" in decision.why


class Facts(NamedTuple):
    cluster: str = "shop"
    topic_id: str = "t1"
    timeline: str = "ab"
    offset: int = 100
    format: int = 1


WANTED = Wanted("shop", "t1", "ab", 1, log_start=50, log_end=200)


@pytest.mark.parametrize(
    ("snapshot", "why"),
    [
        (Facts(), None),
        (Facts(offset=49), None),  # the next record is the first one of the log
        (Facts(offset=199), None),
        (Facts(cluster="other"), "it is of cluster other"),
        (Facts(topic_id="t2"), "another topic"),
        (Facts(timeline="cd"), "another timeline"),
        (Facts(format=2), "it has format 2"),
        (Facts(offset=48), "were deleted"),
        (Facts(offset=200), "the log ends before it"),
    ],
)
def test_a_snapshot_must_belong_to_the_log(snapshot: Facts, why: str | None) -> None:
    found = mismatch(snapshot, WANTED)
    assert found is None if why is None else why in (found or "")


def test_any_timeline_will_do_if_that_of_the_store_is_unknown() -> None:
    assert mismatch(Facts(timeline="cd"), WANTED._replace(timeline="")) is None


def lost(log_end: int | None, source_offset: int = 50, cause: Cause = Cause.TRUNCATED) -> range:
    return Heal(Damage(cause, "x", 0, offset=100, log_end=log_end), "s", source_offset, 0).lost


def test_the_lost_offsets() -> None:
    assert lost(log_end=90) == range(90, 101)
    assert lost(log_end=150) == range(51, 101)  # it has grown again: no more is known
    assert lost(log_end=None) == range(51, 101)
    assert not lost(log_end=90, cause=Cause.DIVERGED)
