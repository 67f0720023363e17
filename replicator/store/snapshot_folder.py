"""The snapshots in a folder, as a source for a store that is rebuilt (`node.healing.SnapshotSource`)."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from replicator.errors import SnapshotError, StoreError, StoreFull
from replicator.protocol.log_state import LogState
from replicator.store import environment, snapshot
from replicator.store.digest import DIGEST_MASK, entry_digest
from replicator.store.replacement import file_error
from replicator.store.snapshot import Manifest

logger = logging.getLogger(__name__)


class SnapshotFolder:
    def __init__(self, folder: Path, cluster: str) -> None:
        self._folder = folder
        self._cluster = cluster

    @property
    def place(self) -> str:
        return str(self._folder)

    def listed(self) -> Sequence[Manifest]:
        """The complete ones, the highest offset first. Those that cannot be read are left out."""
        found = []
        for manifest in self._folder.glob("[!.]*/manifest.json"):
            try:
                found.append(snapshot.read_manifest(manifest.parent))
            except SnapshotError as error:
                logger.warning("%s", error)
        return sorted(found, key=lambda it: it.offset, reverse=True)

    def state(self, name: str) -> LogState:
        return snapshot.read_state(self._folder / name)

    def restore(self, name: str, store: Path) -> None:
        try:
            snapshot.restore(self._folder / name, store, self._cluster)
        except OSError as error:
            raise file_error(store, error) from error


def check_content(store: Path, manifest: Manifest) -> None:
    """Compute the digest of a restored store, which is not open, from every entry.

    Raises `SnapshotError` if it is not the one that the store has, and its manifest; `StoreFull`.
    """
    try:
        with environment.read_only(store) as env:
            meta = environment.read_meta(env)
            digest = entries = 0
            with env.begin(db=env.open_db(b"entries", create=False)) as txn:
                for key, value in txn.cursor():
                    digest += entry_digest(key, value)
                    entries += 1
    except StoreFull:
        raise
    except StoreError as error:
        raise SnapshotError(f"it cannot be read: {error}") from error
    digest &= DIGEST_MASK
    if meta is None or (meta.digest, meta.entries) != (digest, entries):
        raise SnapshotError(
            f"its {entries} entries have digest {digest:032x}, not the one that they had when it was taken"
        )
    if (meta.state.offset, f"{meta.digest:032x}") != (manifest.offset, manifest.digest):
        raise SnapshotError("its content is not that of its manifest")
