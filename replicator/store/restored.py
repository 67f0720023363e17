"""Checks a store that was restored from a snapshot, before it is used."""

from __future__ import annotations

from pathlib import Path

from replicator.errors import SnapshotError, StoreError
from replicator.protocol.log_state import LogState
from replicator.store import environment, snapshot
from replicator.store.digest import recount
from replicator.store.snapshot import Manifest


def state_of(store: Path, manifest: Manifest) -> LogState:
    """The state of the log in it. It is not open. Raises `SnapshotError`."""
    try:
        with environment.read_only(store) as env:
            meta = environment.read_meta(env)
    except StoreError as error:
        raise SnapshotError(f"it cannot be read: {error}") from error
    if meta is None or (meta.state.offset, f"{meta.digest:032x}") != (manifest.offset, manifest.digest):
        raise SnapshotError("its content is not that of its manifest")
    return meta.state


def check_content(store: Path) -> None:
    """Compute its digest from every entry. Raises `SnapshotError`."""
    try:
        with environment.read_only(store) as env:
            meta = environment.read_meta(env)
        digest, entries = recount(snapshot.entries(store))
    except StoreError as error:
        raise SnapshotError(f"it cannot be read: {error}") from error
    if meta is None or (meta.digest, meta.entries) != (digest, entries):
        raise SnapshotError(
            f"its {entries} entries have digest {digest:032x}, not the one that they had when it was taken"
        )
