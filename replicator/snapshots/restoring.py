"""Restores a snapshot from a repository to the folder of a store."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path

from replicator.errors import SnapshotError, StoreError
from replicator.snapshots.repository import Repository, StoredSnapshot
from replicator.snapshots.transfer import OnTransferred, ignore
from replicator.store import environment, snapshot
from replicator.store.machine import read_meta
from replicator.store.meta import Meta

ATTEMPTS = 3  # to restore the newest snapshot, which may be deleted meanwhile

OnChosen = Callable[[StoredSnapshot], OnTransferred]
"""Called with the snapshot that is restored now. Returns what reports its parts."""


def restore(
    repository: Repository,
    choice: Callable[[], StoredSnapshot],
    store: Path,
    on_chosen: OnChosen = lambda stored: ignore,
    on_begun: Callable[[], object] = lambda: None,
) -> StoredSnapshot:
    """Replace a store that is not open with the snapshot that `choice` names, again if it was deleted meanwhile.

    `on_begun` is called once a node that is started waits for the end. After an error, the store is unchanged.
    Raises `SnapshotError`, `StoreError`, `StoreFull`, `RepositoryUnavailable`, `ConfigError`.
    """
    with environment.replacing(store) as file:
        on_begun()
        for attempt in range(1, ATTEMPTS + 1):
            stored = choice()
            try:
                repository.fetch(stored, file, on_chosen(stored))
                meta = snapshot.meta_of(file)
                snapshot.check_meta(meta, stored.manifest)
                _check_same_log(meta, store)
            except SnapshotError:
                file.unlink(missing_ok=True)
                if attempt == ATTEMPTS or choice() == stored:
                    raise
            else:
                break
    return stored


def _check_same_log(restored: Meta, store: Path) -> None:
    """Raises `SnapshotError` if the store that would be replaced is of another log."""
    with contextlib.suppress(StoreError):  # what cannot be read is to be replaced
        before = read_meta(store) if (store / "data.mdb").exists() else None
        if before is not None and (before.cluster, before.topic_id) != (restored.cluster, restored.topic_id):
            raise SnapshotError(
                f"the snapshot is of cluster {restored.cluster} (topic {restored.topic_id}), and the store in {store} "
                f"of {before.cluster} (topic {before.topic_id}): move that store away first"
            )
