"""A repository, as the source of a store that is rebuilt (`node.healing.SnapshotSource`)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from replicator.snapshots.listing import listed
from replicator.snapshots.repository import Repository
from replicator.snapshots.restoring import only, restore
from replicator.store.snapshot import Manifest


class RepositorySource:
    def __init__(self, repository: Repository) -> None:
        self._repository = repository

    @property
    def place(self) -> str:
        return self._repository.url

    def listed(self) -> Sequence[Manifest]:
        return [it.manifest for it in listed(self._repository)]

    def restore(self, name: str, store: Path) -> None:
        restore(self._repository, only(self._repository.get(name)), store)
