"""Decides when a snapshot is due, and which ones may be deleted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from replicator.node.snapshots import ListedSnapshot


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


def obsolete(snapshots: Sequence[ListedSnapshot], keep: int, keep_s: int, now_ms: int) -> list[str]:
    """The names of those that may be deleted. `snapshots`: of one log, the newest first.

    The `keep` newest verified ones stay, and at least one; so do those that are younger than `keep_s`, and all that are
    newer than the newest verified one, as they are not verified yet. While too few are verified, all stay.
    """
    verified = [it for it in snapshots if it.verified_at_ms is not None]
    kept = verified[: max(1, keep)]
    if len(kept) < max(1, keep):
        return []
    older = snapshots[snapshots.index(kept[0]) :]
    return [it.manifest.name for it in older if it not in kept and now_ms - it.manifest.taken_at_ms >= keep_s * 1000]
