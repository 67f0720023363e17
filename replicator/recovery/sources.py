"""What the past is read from: the log, and the snapshots of the same log."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import NamedTuple

from replicator.errors import LogTrimmed
from replicator.position import Offset
from replicator.recovery.accepted_log import LogBounds
from replicator.store.snapshot import Manifest

WORTH_RECORDS = 100_000
"""A second or two to read and judge: about as long as it takes to restore a snapshot."""

CLOCK_MARGIN_MS = 3600 * 1000
"""A snapshot was taken by another clock than records were written by. They differ by less than this."""


def of_log(manifests: Iterable[Manifest], cluster: str, topic_id: str) -> list[Manifest]:
    """Those of the same log, the lowest offset first."""
    found = (it for it in manifests if (it.cluster, it.topic_id) == (cluster, topic_id))
    return sorted(found, key=lambda it: it.offset)


class HistoryStart(NamedTuple):
    """Where to begin to read the log."""

    base: Manifest | None  # the snapshot whose state is known; None: the log is read from its first record
    is_trimmed: bool  # what was before the base is not in the log (any more)


def choose_start(
    snapshots: Sequence[Manifest],
    bounds: LogBounds,
    since: Offset | datetime | None,
    *,
    is_restored: bool = False,
    worth_records: int = WORTH_RECORDS,
) -> HistoryStart:
    """A place before `since` at which the state of the log is known. `snapshots`: of this log, as `of_log`.

    `is_restored`: the log begins with the content of another cluster. `worth_records`: a snapshot that saves fewer
    records is not used, unless there must be one. Raises `LogTrimmed`: the log does not begin with
    its first record, and no snapshot says what was before.
    """
    usable = [it for it in snapshots if bounds.start <= it.offset + 1 <= bounds.end]
    before = [it for it in usable if since is not None and _is_before(it, since)]
    if before and (bounds.start or is_restored or before[-1].offset - bounds.start >= worth_records):
        return HistoryStart(before[-1], is_trimmed=False)
    if not bounds.start and not is_restored:
        return HistoryStart(None, is_trimmed=False)
    if not usable:
        why = "its cluster was restored from a snapshot" if is_restored else "it was trimmed"
        raise LogTrimmed(
            f"the log begins at offset {bounds.start}, because {why}, and no snapshot has the state before "
            "that: name the repository of the snapshots (--repository)"
        )
    return HistoryStart(usable[0], is_trimmed=True)


def _is_before(manifest: Manifest, since: Offset | datetime) -> bool:
    if isinstance(since, datetime):
        return manifest.taken_at_ms + CLOCK_MARGIN_MS < since.timestamp() * 1000
    return manifest.offset < since
