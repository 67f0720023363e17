"""Snapshots in the repository of a cluster, for commands: they need no node."""

from __future__ import annotations

import os
import platform
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator
from datetime import datetime
from functools import partial
from pathlib import Path

from replicator.errors import SnapshotError
from replicator.local.folder import STORE
from replicator.local.progress import ProgressReporter
from replicator.log.kafka.security import KafkaSecurity
from replicator.node.snapshots import ListedSnapshot
from replicator.recovery.roll_forward import RecoveryTarget
from replicator.snapshots import restoring
from replicator.snapshots.listing import first_verified, listed, of_first_log, usable
from replicator.snapshots.repository import Repository, StoredSnapshot, checked_name
from replicator.snapshots.restoring import Choice, only
from replicator.snapshots.retention import obsolete
from replicator.snapshots.transfer import OnTransferred, in_total
from replicator.snapshots.verification import Check, LogAccess, verify_and_note
from replicator.store import boot
from replicator.store.snapshot import Manifest


def named(repository: Repository, name: str, cluster: str) -> StoredSnapshot:
    """Raises `SnapshotError` (there is no such name, or it is of another cluster), `RepositoryUnavailable`,
    `ConfigError`.
    """
    stored = repository.get(name)
    if stored.manifest.cluster != cluster:
        raise SnapshotError(f"snapshot {name} is of cluster {stored.manifest.cluster}, not {cluster}")
    return stored


def newest_of_log(repository: Repository, cluster: str, topic_id: str | None, *, verified: bool) -> Choice:
    """The newest snapshot of the log with that id; `verified`: only of those that are."""

    def choice(skipped: Collection[str]) -> StoredSnapshot:
        snapshots = listed(repository)
        found = usable(snapshots, cluster, topic_id=topic_id, skipped=skipped)
        chosen = first_verified(found) if verified else next(iter(found), None)
        if chosen is None:
            raise SnapshotError(
                f"there is no snapshot{_failures(snapshots, cluster)} in {repository.url}: `replicator snapshot take` "
                "takes one"
            )
        return repository.get(chosen.manifest.name)

    return choice


def _failures(snapshots: Iterable[ListedSnapshot], cluster: str) -> str:
    """Those that cannot be used, and why, as a part of a sentence; empty if there are none."""
    failed = [it for it in snapshots if it.failure and it.manifest.cluster == cluster]
    reasons = "; ".join(f"{it.manifest.name}: {it.failure}" for it in failed)
    return (
        f" whose verification has not failed ({reasons}; `replicator snapshot delete NAME` deletes it)"
        if failed
        else ""
    )


def best(repository: Repository, cluster: str) -> Choice:
    """The newest verified snapshot of the cluster's present log; without one, the newest."""

    def choice(skipped: Collection[str]) -> StoredSnapshot:
        found = usable(_of_present_log(repository, cluster), cluster, skipped=skipped)
        if not found:
            raise SnapshotError(f"{repository.url} has no snapshot of cluster {cluster} that can be used")
        return repository.get((first_verified(found) or found[0]).manifest.name)

    return choice


def newest(repository: Repository, cluster: str | None) -> StoredSnapshot:
    """Of the cluster (None: of any), also if its verification has failed.

    Raises `SnapshotError`, `RepositoryUnavailable`, `ConfigError`.
    """
    for it in _of_present_log(repository, cluster):
        return repository.get(it.manifest.name)
    raise _missing(repository, cluster)


def newest_before(
    repository: Repository, cluster: str | None, target: RecoveryTarget | None, skipped: Collection[str] = ()
) -> StoredSnapshot:
    """Of the cluster (None: of any), from which the target (None: the snapshot itself) can be reached: of its present
    log, or, for a time, of the log that the cluster had then.

    `skipped`: the names of others that cannot be used. Raises `SnapshotError`, `RepositoryUnavailable`, `ConfigError`.
    """
    is_time = isinstance(target, datetime)
    found = usable(listed(repository, cluster=cluster) if is_time else _of_present_log(repository, cluster), cluster)
    if not found:
        raise _missing(repository, cluster)
    for it in usable(found, cluster, skipped=skipped):
        if _is_before(it.manifest, target):
            return repository.get(it.manifest.name)
    oldest = found[-1].manifest
    raise SnapshotError(
        f"there is no snapshot{_of(cluster)} before that in {repository.url}: the oldest is at offset {oldest.offset}, "
        f"of {datetime.fromtimestamp(oldest.taken_at_ms / 1000).isoformat(' ', 'seconds')}"
    )


def _of_present_log(repository: Repository, cluster: str | None) -> list[ListedSnapshot]:
    """Also those that cannot be used: the snapshots of the log of which the newest one of the cluster (None: of any)
    is.
    """
    return of_first_log([it for it in listed(repository, cluster=cluster) if cluster in (None, it.manifest.cluster)])


def _missing(repository: Repository, cluster: str | None) -> SnapshotError:
    return SnapshotError(
        f"there is no snapshot{_of(cluster)} in {repository.url}: `replicator snapshot take` takes one"
    )


def _of(cluster: str | None) -> str:
    return f" of cluster {cluster}" if cluster else ""


def _is_before(manifest: Manifest, target: RecoveryTarget | None) -> bool:
    if isinstance(target, datetime):
        return manifest.taken_at_ms <= target.timestamp() * 1000
    return target is None or manifest.offset <= target


def restore(
    repository: Repository,
    choice: Choice,
    store: Path,
    progress: ProgressReporter,
    on_begun: Callable[[], object] = lambda: None,
) -> StoredSnapshot:
    """As `restoring.restore`."""

    def on_skipped(why: str) -> None:
        progress.notice(f"{why}. The next one is used instead")

    return restoring.restore(repository, choice, store, partial(show_restore, progress), on_begun, on_skipped)


def show_restore(progress: ProgressReporter, stored: StoredSnapshot) -> OnTransferred:
    progress.step(f"restoring snapshot {stored.name}")
    return counter(progress, "restored, MiB", stored.bytes)


def restore_node(repository: Repository, stored: StoredSnapshot, folder: Path, progress: ProgressReporter) -> None:
    """As `restore`, for the folder of a node, which must not run. Raises `StoreError` if it does."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    lock = boot.lock(folder)
    try:
        restore(repository, only(stored), folder / STORE, progress)
    finally:
        os.close(lock)


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

    `keep` counts those of each log: a cluster whose topic was recreated has several. Verified ones that have lost parts
    do not count, and stay.
    """
    logs: dict[str, list[ListedSnapshot]] = defaultdict(list)
    for it in listed(repository):
        is_whole = it.verified_at_ms is None or not repository.missing_parts(it.manifest.name)
        if it.manifest.cluster == cluster and is_whole:
            logs[it.manifest.topic_id].append(it)
    now_ms = time.time_ns() // 1_000_000
    names = [name for found in logs.values() for name in obsolete(found, keep, keep_s, now_ms)]
    for name in names:
        repository.delete(name)
    return names + repository.delete_unfinished(unfinished_s)


def delete(repository: Repository, name: str, *, force: bool) -> None:
    """`force`: also the only verified one of its log.

    Raises `SnapshotError`, `RepositoryUnavailable`, `ConfigError`.
    """
    if checked_name(name) not in repository.names():
        raise SnapshotError(f"there is no snapshot {name} in {repository.url}: see `replicator snapshot list`")
    verified = [it.manifest for it in listed(repository) if it.verified_at_ms is not None]
    for manifest in verified:
        is_last = manifest.name == name and [it.topic_id for it in verified].count(manifest.topic_id) == 1
        if is_last and not force:
            raise SnapshotError(
                f"{name} is the only verified snapshot of this log of cluster {manifest.cluster}, and a log that was "
                "trimmed is worth nothing without one: take and verify another one first, or give --force"
            )
    repository.delete(name)


def counter(progress: ProgressReporter, unit: str, total: int) -> OnTransferred:
    """Shows the bytes of parts as a bar, in MiB."""
    return in_total(lambda done: progress.bar("bytes", unit, done >> 20, total >> 20))
