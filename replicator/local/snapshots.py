"""Snapshots in the repository of a cluster, for commands: they need no node."""

from __future__ import annotations

import contextlib
import os
import platform
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path

from replicator.errors import SnapshotError, StoreError
from replicator.local.folder import STORE
from replicator.local.progress import ProgressReporter
from replicator.log.kafka.security import KafkaSecurity
from replicator.snapshots.listing import listed
from replicator.snapshots.repository import Repository, StoredSnapshot
from replicator.snapshots.retention import Kept, obsolete
from replicator.snapshots.transfer import OnTransferred, in_total
from replicator.snapshots.verification import Check, LogAccess, verify_and_note
from replicator.store import boot, environment
from replicator.store.machine import read_meta
from replicator.store.snapshot import Manifest

ATTEMPTS = 3  # to restore the newest snapshot, which may be deleted meanwhile


def choose(
    repository: Repository, name: str | None, cluster: str, *, topic_id: str | None = None, verified: bool = False
) -> StoredSnapshot | None:
    """The named snapshot, or the newest one of the cluster, and of the log with that id; None: there is none.

    `verified`: only of those that are. Raises `SnapshotError` (there is no such name, or it is of another cluster),
    `RepositoryUnavailable`, `ConfigError`.
    """
    if name is not None:
        stored = repository.get(name)
        if stored.manifest.cluster != cluster:
            raise SnapshotError(f"snapshot {name} is of cluster {stored.manifest.cluster}, not {cluster}")
        return stored
    for stored in repository.listed():
        is_ours = stored.manifest.cluster == cluster and topic_id in (None, stored.manifest.topic_id)
        if is_ours and (not verified or repository.verification(stored.name)):
            return stored
    return None


def restore(
    repository: Repository,
    choice: Callable[[], StoredSnapshot],
    store: Path,
    progress: ProgressReporter,
    begun: Callable[[], object] = lambda: None,
) -> StoredSnapshot:
    """Replace a store that is not open with the snapshot that `choice` names, again if it was deleted meanwhile.

    `begun` is called once a node that is started waits for the end.
    Raises `SnapshotError`, `StoreError`, `StoreFull`, `RepositoryUnavailable`, `ConfigError`.
    """
    with environment.replacing(store) as file:
        begun()
        for attempt in range(1, ATTEMPTS + 1):
            stored = choice()
            progress.step(f"restoring snapshot {stored.name}")
            try:
                repository.fetch(stored, file, counter(progress, "restored, MiB", stored.bytes))
                _check_restored(file, stored.manifest, store)
            except SnapshotError:
                file.unlink(missing_ok=True)
                if attempt == ATTEMPTS or choice() == stored:
                    raise
            else:
                break
    return stored


def restore_node(repository: Repository, stored: StoredSnapshot, folder: Path, progress: ProgressReporter) -> None:
    """As `restore`, for the folder of a node, which must not run. Raises `StoreError` if it does."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    lock = boot.lock(folder)
    try:
        restore(repository, lambda: stored, folder / STORE, progress)
    finally:
        os.close(lock)


def _check_restored(file: Path, manifest: Manifest, store: Path) -> None:
    """Raises `SnapshotError` if it is not what the manifest says, or the store before is of another log."""
    meta = environment.meta_of(file)
    if meta is None or (meta.state.offset, f"{meta.digest:032x}") != (manifest.offset, manifest.digest):
        raise SnapshotError(f"the content of snapshot {manifest.name} is not that of its manifest: use another one")
    with contextlib.suppress(StoreError):  # what cannot be read is to be replaced
        before = read_meta(store) if (store / "data.mdb").exists() else None
        if before is not None and (before.cluster, before.topic_id) != (meta.cluster, meta.topic_id):
            raise SnapshotError(
                f"snapshot {manifest.name} is of cluster {meta.cluster} (topic {meta.topic_id}), and the store in "
                f"{store} of {before.cluster} (topic {before.topic_id}): move that store away first"
            )


def verify(
    repository: Repository,
    stored: StoredSnapshot,
    cluster: str,
    bootstrap: str,
    security: KafkaSecurity,
    progress: ProgressReporter,
) -> Iterator[Check]:
    """As `verify_and_note`, in a temporary folder."""

    def on_progress(what: str, done: int, total: int) -> None:
        divisor, unit = (1 << 20, "restored, MiB") if what == "bytes" else (1, "entries")
        progress.bar(what, unit, done // divisor, total // divisor)

    by = f"{os.environ.get('USER') or os.getuid()}@{platform.node()}"
    kafka = LogAccess(bootstrap, cluster, security)
    with tempfile.TemporaryDirectory(prefix="replicator-verify-") as folder:
        yield from verify_and_note(repository, stored, kafka, by, Path(folder), on_progress)


def prune(repository: Repository, cluster: str, keep: int, keep_s: int, unfinished_s: float) -> list[str]:
    """Delete old snapshots, and uploads that were not completed. Returns their names.

    `keep` counts those of each log: a cluster whose topic was recreated has several.
    """
    logs: dict[str, list[Kept]] = defaultdict(list)
    for it in listed(repository):
        if it.manifest.cluster == cluster:
            kept = Kept(it.manifest.name, it.manifest.taken_at_ms, it.verified_at_ms is not None)
            logs[it.manifest.topic_id].append(kept)
    now_ms = time.time_ns() // 1_000_000
    names = [name for kept in logs.values() for name in obsolete(kept, keep, keep_s, now_ms)]
    for name in names:
        repository.delete(name)
    return names + repository.delete_unfinished(unfinished_s)


def counter(progress: ProgressReporter, unit: str, total: int) -> OnTransferred:
    """Shows the bytes of parts as a bar, in MiB."""
    return in_total(lambda done: progress.bar("bytes", unit, done >> 20, total >> 20))
