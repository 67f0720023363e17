"""The snapshots in a repository, and which of them are verified."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable

from replicator.errors import SnapshotError
from replicator.node.snapshots import ListedSnapshot
from replicator.snapshots.repository import Repository


def listed(repository: Repository, verified: Iterable[ListedSnapshot] = ()) -> list[ListedSnapshot]:
    """The highest offset first. Those that cannot be read are left out.

    `verified`: what is known already; it cannot change any more, so it is not read again. It blocks.
    Raises `RepositoryUnavailable`, `ConfigError`.
    """
    known = {it.manifest.name: it for it in verified}
    found = []
    for name in repository.names():
        if name in known:
            found.append(known[name])
            continue
        with contextlib.suppress(SnapshotError):  # it is damaged, or was deleted meanwhile
            manifest, verification = repository.get(name).manifest, repository.verification(name)
            found.append(ListedSnapshot(manifest, verification.verified_at_ms if verification else None))
    return sorted(found, key=lambda it: it.manifest.offset, reverse=True)
