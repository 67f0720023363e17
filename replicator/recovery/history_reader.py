"""Reads the history of a key: from the log, or from a snapshot on, if that saves much or the log begins later."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path
from typing import Protocol

from replicator.log.port import Log
from replicator.node.log_start import continues_another
from replicator.position import Offset
from replicator.protocol.log_state import LogState
from replicator.recovery.accepted_log import bounds_of, read_accepted
from replicator.recovery.history import KeyChange, history_of, values_in
from replicator.recovery.sources import choose_start, of_log
from replicator.recovery.temporary import temporary_store
from replicator.snapshots.listing import listed
from replicator.snapshots.repository import Repository, StoredSnapshot
from replicator.snapshots.restoring import only, restore
from replicator.snapshots.transfer import OnTransferred
from replicator.store import snapshot
from replicator.store.snapshot import Manifest


class HistoryOutput(Protocol):
    def show_restore(self, stored: StoredSnapshot) -> OnTransferred:
        """This snapshot is restored first."""
        ...

    def note_begin(self, start: Offset, base: Manifest, *, is_restored: bool) -> None:
        """The log begins at `start`, and what was before is known from this snapshot only.

        `is_restored`: because the cluster was restored from another one.
        """
        ...

    def add(self, found: Iterable[KeyChange]) -> None: ...

    def show_progress(self, read: int, total: int) -> None:
        """Of the offsets of the log."""
        ...


async def read_history(
    log: Log,
    cluster: str,
    row: bytes,
    since: Offset | datetime | None,
    snapshots: Repository | None,
    folder: Path,
    output: HistoryOutput,
) -> None:
    """Of the key `row`. `folder`: for a temporary store. Raises `ReplicatorError`."""
    bounds = await bounds_of(log)
    manifests = [] if snapshots is None else [it.manifest for it in await asyncio.to_thread(listed, snapshots)]
    is_restored = await continues_another(log)
    start = choose_start(of_log(manifests, cluster, log.identity), bounds, since, is_restored=is_restored)
    state = LogState()
    if snapshots is not None and (base := start.base) is not None:
        with temporary_store(folder) as store:
            await asyncio.to_thread(restore, snapshots, only(snapshots.get(base.name)), store, output.show_restore)
            state = snapshot.meta_of(store).state
            if start.is_trimmed:
                output.note_begin(bounds.start, base, is_restored=is_restored)
                output.add(values_in(cluster, store, base.taken_at_ms, state, row))
    first = state.offset + 1
    async with contextlib.aclosing(read_accepted(log, state, bounds)) as read:
        async for judged in read:
            for accepted in judged.accepted:
                output.add(it for it in history_of(cluster, row, accepted) if _is_since(it, since))
            output.show_progress(judged.state.offset + 1 - first, bounds.end - first)


def _is_since(change: KeyChange, since: Offset | datetime | None) -> bool:
    source = change.change.source
    if isinstance(since, datetime):
        return source.timestamp_us >= since.timestamp() * 1e6
    return since is None or source.offset >= since
