"""The snapshots in a repository, which of them are verified, and which can be used."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence

from replicator.errors import SnapshotError
from replicator.node.snapshots import ListedSnapshot
from replicator.snapshots.repository import FailedVerification, Repository, Unfinished, Verification
from replicator.store.snapshot import Manifest


def listed(
    repository: Repository,
    verified: Iterable[ListedSnapshot] = (),
    on_problem: Callable[[SnapshotError], object] = lambda error: None,
    cluster: str | None = None,
) -> list[ListedSnapshot]:
    """Those of `cluster` first, then those of others, such as one from which it was restored, whose offsets are of
    another log; of a cluster those of its present log first, that of the newest snapshot; of a log the highest offset
    first. It blocks.

    `verified`: those that were, so their manifests are known and are not read again; another verification may have
    failed since. `on_problem` is called with what is wrong with each that cannot be read. Raises
    `RepositoryUnavailable`, `ConfigError`.
    """
    known = {it.manifest.name: it.manifest for it in verified}
    found = []
    for name in repository.names():
        try:
            verification = repository.verification(name)
            is_known = name in known and isinstance(verification, Verification)
            manifest = known[name] if is_known else repository.get(name).manifest
        except Unfinished:
            continue  # or it was deleted meanwhile
        except SnapshotError as error:
            on_problem(error)
            continue
        found.append(_listed(manifest, verification))
    of_cluster: dict[str, int] = {}  # the time of the newest of each cluster, and of each log
    of_log: dict[str, int] = {}
    for manifest in (it.manifest for it in found):
        of_cluster[manifest.cluster] = max(manifest.taken_at_ms, of_cluster.get(manifest.cluster, 0))
        of_log[manifest.topic_id] = max(manifest.taken_at_ms, of_log.get(manifest.topic_id, 0))

    def order(it: ListedSnapshot) -> tuple[bool, int, str, int, str, int]:
        of, log = it.manifest.cluster, it.manifest.topic_id
        return of != cluster, -of_cluster[of], of, -of_log[log], log, -it.manifest.offset

    return sorted(found, key=order)


def of_first_log(snapshots: Sequence[ListedSnapshot]) -> list[ListedSnapshot]:
    """Those of the same log as the first: offsets of a former log, whose topic was deleted, have another meaning."""
    return [it for it in snapshots if it.manifest.topic_id == snapshots[0].manifest.topic_id]


def usable(
    snapshots: Iterable[ListedSnapshot],
    cluster: str | None,
    *,
    topic_id: str | None = None,
    skipped: Collection[str] = (),
) -> list[ListedSnapshot]:
    """Those of the cluster (None: of any), and of the log with that id, whose last verification has not failed, in the
    same order. `skipped`: the names of others that cannot be used.
    """
    return [
        it
        for it in snapshots
        if cluster in (None, it.manifest.cluster)
        and topic_id in (None, it.manifest.topic_id)
        and not it.failure
        and it.manifest.name not in skipped
    ]


def first_verified(snapshots: Sequence[ListedSnapshot]) -> ListedSnapshot | None:
    return next((it for it in snapshots if it.verified_at_ms is not None), None)


def _listed(manifest: Manifest, verification: Verification | FailedVerification | None) -> ListedSnapshot:
    match verification:
        case Verification(verified_at_ms):
            return ListedSnapshot(manifest, verified_at_ms)
        case FailedVerification():
            return ListedSnapshot(manifest, None, verification.failure)
        case None:
            return ListedSnapshot(manifest, None)
