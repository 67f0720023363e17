"""The snapshots in a folder, as a source for a store that is rebuilt (`node.healing.SnapshotSource`)."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from replicator.errors import SnapshotError, StoreError
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

    def restore(self, name: str, store: Path) -> None:
        try:
            snapshot.restore(self._folder / name, store, self._cluster)
        except OSError as error:
            raise file_error(store, error) from error


def state_of(store: Path, manifest: Manifest) -> LogState:
    """The state of the log in a store that was restored, and is not open. Raises `SnapshotError`."""
    try:
        with environment.read_only(store) as env:
            meta = environment.read_meta(env)
    except StoreError as error:
        raise SnapshotError(f"it cannot be read: {error}") from error
    if meta is None or (meta.state.offset, f"{meta.digest:032x}") != (manifest.offset, manifest.digest):
        raise SnapshotError("its content is not that of its manifest")
    return meta.state


def check_content(store: Path) -> None:
    """Compute the digest of such a store from every entry. Raises `SnapshotError`."""
    digest = entries = 0
    try:
        with environment.read_only(store) as env:
            meta = environment.read_meta(env)
            with env.begin(db=env.open_db(b"entries", create=False)) as txn:
                for key, value in txn.cursor():
                    digest += entry_digest(key, value)
                    entries += 1
    except StoreError as error:
        raise SnapshotError(f"it cannot be read: {error}") from error
    digest &= DIGEST_MASK
    if meta is None or (meta.digest, meta.entries) != (digest, entries):
        raise SnapshotError(
            f"its {entries} entries have digest {digest:032x}, not the one that they had when it was taken"
        )
