"""Restores a snapshot from a repository to the folder of a store."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection
from pathlib import Path

from replicator.errors import SnapshotError, StoreError
from replicator.snapshots.repository import FolderUnusable, Repository, StoredSnapshot
from replicator.snapshots.transfer import OnTransferred, ignore
from replicator.store import environment, snapshot
from replicator.store.machine import read_meta
from replicator.store.meta import Meta

Choice = Callable[[Collection[str]], StoredSnapshot]
"""Called with the names of those that could not be restored. Raises `SnapshotError` if there is no other."""

OnChosen = Callable[[StoredSnapshot], OnTransferred]
"""Called with the snapshot that is restored now. Returns what reports its parts."""


def restore(
    repository: Repository,
    choice: Choice,
    store: Path,
    on_chosen: OnChosen = lambda stored: ignore,
    on_begun: Callable[[], object] = lambda: None,
    on_skipped: Callable[[str], object] = lambda why: None,
) -> StoredSnapshot:
    """Replace a store that is not open with the snapshot that `choice` names; with the next one if that is damaged, or
    was deleted meanwhile.

    `on_begun` is called once a node that is started waits for the end, `on_skipped` with what is wrong with a snapshot
    that another one replaces. After an error, the store is unchanged.
    Raises `SnapshotError`, `StoreError`, `StoreFull`, `RepositoryUnavailable`, `ConfigError`.
    """
    with environment.replacing(store) as file:
        on_begun()
        skipped: dict[str, str] = {}  # by name: why
        stored = choice(skipped)
        while True:
            try:
                repository.fetch(stored, file, on_chosen(stored))
                meta = snapshot.meta_of(file)
                snapshot.check_meta(meta, stored.manifest)
                _check_same_log(meta, store)
                return stored
            except FolderUnusable:
                raise
            except SnapshotError as error:
                file.unlink(missing_ok=True)
                skipped[stored.name] = f"snapshot {stored.name} cannot be restored: {error}"
                other = _next(choice, skipped)
                if other is None:
                    raise SnapshotError("; ".join(skipped.values())) from error
                on_skipped(skipped[stored.name])
                stored = other


def only(stored: StoredSnapshot) -> Choice:
    """The choice of this one, and of no other."""
    return lambda skipped: stored


def _next(choice: Choice, skipped: Collection[str]) -> StoredSnapshot | None:
    try:
        found = choice(skipped)
    except SnapshotError:
        return None
    return None if found.name in skipped else found


def _check_same_log(restored: Meta, store: Path) -> None:
    """Raises `FolderUnusable` if the store that would be replaced is of another log."""
    with contextlib.suppress(StoreError):  # what cannot be read is to be replaced
        before = read_meta(store) if (store / "data.mdb").exists() else None
        if before is not None and (before.cluster, before.topic_id) != (restored.cluster, restored.topic_id):
            raise FolderUnusable(
                f"the snapshot is of cluster {restored.cluster} (topic {restored.topic_id}), and the store in {store} "
                f"of {before.cluster} (topic {before.topic_id}): move that store away first"
            )
