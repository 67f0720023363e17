"""The snapshots in a repository, and which of them are verified."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from replicator.errors import SnapshotError
from replicator.node.snapshots import ListedSnapshot
from replicator.snapshots.repository import Repository, Unfinished


def listed(
    repository: Repository,
    verified: Iterable[ListedSnapshot] = (),
    on_problem: Callable[[SnapshotError], object] = lambda error: None,
) -> list[ListedSnapshot]:
    """The highest offset first. It blocks.

    `verified`: what is known already; it cannot change any more, so it is not read again. `on_problem` is called with
    what is wrong with each that cannot be read. Raises `RepositoryUnavailable`, `ConfigError`.
    """
    known = {it.manifest.name: it for it in verified}
    found = []
    for name in repository.names():
        if name in known:
            found.append(known[name])
            continue
        try:
            manifest, verification = repository.get(name).manifest, repository.verification(name)
        except Unfinished:
            continue  # or it was deleted meanwhile
        except SnapshotError as error:
            on_problem(error)
            continue
        found.append(ListedSnapshot(manifest, verification.verified_at_ms if verification else None))
    return sorted(found, key=lambda it: it.manifest.offset, reverse=True)
