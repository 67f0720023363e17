"""Decides when a snapshot is due, and which ones may be deleted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Schedule:
    """Whichever is reached first. 0: never."""

    records: int
    bytes: int
    seconds: int


@dataclass(frozen=True, slots=True)
class Since:
    """What has happened since the newest snapshot."""

    records: int
    bytes: int  # of the log
    seconds: float
    has_changes: bool  # of entries: an idle leader appends heartbeats only


@dataclass(frozen=True, slots=True)
class Kept:
    """A snapshot, as far as the decision needs it."""

    name: str
    taken_at_ms: int
    verified: bool


def due(schedule: Schedule, since: Since) -> str | None:
    """Why a snapshot is to be taken now, for the log of the node; None: it is not. Without new records it never is."""
    if since.records <= 0:
        return None
    if schedule.records and since.records >= schedule.records:
        return f"{since.records} records since the last one"
    if schedule.bytes and since.bytes >= schedule.bytes:
        return f"{since.bytes >> 20} MiB of the log since the last one"
    if schedule.seconds and since.seconds >= schedule.seconds and since.has_changes:
        return f"{since.seconds:.0f} s since the last one"
    return None


def obsolete(snapshots: Sequence[Kept], keep: int, keep_s: int, now_ms: int) -> list[str]:
    """Those that may be deleted. `snapshots`: the newest first.

    The `keep` newest verified ones stay, and at least one; so do those that are younger than `keep_s`, and all that are
    newer than the newest verified one, as they are not verified yet. While too few are verified, all stay.
    """
    verified = [it.name for it in snapshots if it.verified]
    if len(verified) < max(1, keep):
        return []
    kept = set(verified[: max(1, keep)])
    older = snapshots[[it.name for it in snapshots].index(verified[0]) :]
    return [it.name for it in older if it.name not in kept and now_ms - it.taken_at_ms >= keep_s * 1000]
