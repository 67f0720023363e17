"""Decides which damage a node repairs by itself, by rebuilding its store from a snapshot or the start of the log.

    damage                                                   cause
    the store differs from a record, a checkpoint of the     diverged
      log, or its own digest
    the log does not hold what the store has read            truncated
    the log begins after what the store has read             trimmed
    the file of the store is damaged                         unreadable
    the log itself is damaged                                suspected: whether its past is another one must be checked
    the topic was deleted or recreated, a newer version of   none: a new store would not help
      records, another process of this node, a full disk

A rebuilt store must not lead to the same damage again and again (`plan`).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple, Protocol

from replicator.errors import (
    Diverged,
    LogDamage,
    LogReplaced,
    LogTrimmed,
    LogTruncated,
    ReplicatorError,
    StoreUnreadable,
)

HEAL_WINDOW_MS = 3_600_000
MAX_HEALS = 5  # in that time
HEAL_BACKOFF_MS = 5_000  # before the second one in that time; doubled before each further one

START_OF_LOG = ""
"""The source of a store that was rebuilt from the log alone."""


class Cause(StrEnum):
    DIVERGED = "diverged"
    TRUNCATED = "truncated"
    TRIMMED = "trimmed"
    UNREADABLE = "unreadable"
    SUSPECTED = "suspected"  # never of a `Heal`


CAUSES: Sequence[tuple[type[ReplicatorError], Cause | None]] = (
    (Diverged, Cause.DIVERGED),
    (LogTruncated, Cause.TRUNCATED),
    (LogTrimmed, Cause.TRIMMED),
    (LogReplaced, None),
    (LogDamage, Cause.SUSPECTED),
    (StoreUnreadable, Cause.UNREADABLE),
)
"""The first type that matches decides; None, and any other error: a new store would not help."""


def cause_of(error: ReplicatorError) -> Cause | None:
    return next((cause for kind, cause in CAUSES if isinstance(error, kind)), None)


@dataclass(frozen=True, slots=True)
class Damage:
    """Why a store must not be used any more."""

    cause: Cause
    error: str
    found_at_ms: int  # since 1970
    offset: int = -1  # up to which the store has read the log; -1 also if it is not known
    timeline: str = ""  # empty: not known
    record: int | None = None  # seq of the record that differs from the store
    log_end: int | None = None  # if the log lacks what the store has read: where it ended then


@dataclass(frozen=True, slots=True)
class Heal:
    """A store that was rebuilt."""

    damage: Damage
    source: str  # name of the snapshot; `START_OF_LOG`
    offset: int  # of the last record in the new store; -1: none
    healed_at_ms: int  # since 1970

    @property
    def lost(self) -> range:
        """Offsets that the former store had read, and the log does not hold any more, or holds other records at.

        If the log had grown again, it is only known that some of them are lost.
        """
        damage = self.damage
        if damage.cause is not Cause.TRUNCATED:
            return range(0)
        first = damage.log_end if damage.log_end is not None and damage.log_end <= damage.offset else self.offset + 1
        return range(first, damage.offset + 1)

    def describe_lost(self) -> str:
        lost = self.lost
        what = "the offsets" if self.damage.log_end == lost.start else "some of the offsets"
        return f"{what} {lost.start} to {lost.stop - 1}"


class Attempt(NamedTuple):
    """Rebuild the store."""

    delay_ms: int  # before that
    excluded: Collection[str]  # sources that have led to the same damage


class GiveUp(NamedTuple):
    why: str


def plan(damage: Damage, heals: Sequence[Heal], now_ms: int) -> Attempt | GiveUp:
    """`heals`: those before, the latest last."""
    recent = [it for it in heals if now_ms - it.healed_at_ms < HEAL_WINDOW_MS]
    tried = {it.source for it in recent if damage.record is not None and it.damage.record == damage.record}
    if START_OF_LOG in tried:
        return GiveUp(
            f"{damage.error}. A store that was rebuilt from all of the log differs at the same record, so the record "
            "is wrong: its author wrote it from a damaged store. Restore the cluster to an offset before it "
            "(docs/runbook.md)"
        )
    if len(recent) >= MAX_HEALS:
        return GiveUp(
            f"{damage.error}. The store was rebuilt {len(recent)} times within an hour: check the memory and the disk "
            "of this machine. An hour later, a restart of the node tries again"
        )
    return Attempt(HEAL_BACKOFF_MS * 2 ** (len(recent) - 1) if recent else 0, tried)


class SnapshotFacts(Protocol):
    """What a manifest says (`store.snapshot.Manifest`)."""

    @property
    def cluster(self) -> str: ...
    @property
    def topic_id(self) -> str: ...
    @property
    def timeline(self) -> str: ...
    @property
    def offset(self) -> int: ...
    @property
    def format(self) -> int: ...


class Wanted(NamedTuple):
    """What a snapshot must match to replace a store."""

    cluster: str
    topic_id: str
    timeline: str  # empty: any
    format: int
    log_start: int
    log_end: int


def mismatch(snapshot: SnapshotFacts, wanted: Wanted) -> str | None:
    """Why the snapshot cannot be used; None: it can, if the log holds its last accepted record."""
    if snapshot.cluster != wanted.cluster:
        return f"it is of cluster {snapshot.cluster}"
    if snapshot.topic_id != wanted.topic_id:
        return "it is of another topic"
    if wanted.timeline and snapshot.timeline != wanted.timeline:
        return "it is of another timeline"
    if snapshot.format != wanted.format:
        return f"it has format {snapshot.format}, and this program reads {wanted.format}"
    if snapshot.offset + 1 < wanted.log_start:
        return f"records after it were deleted, the log starts at {wanted.log_start}"
    if snapshot.offset >= wanted.log_end:
        return f"the log ends before it, at {wanted.log_end}"
    return None
