"""Copies of stores (`store.snapshot`), restored without a repository."""

from __future__ import annotations

import shutil
from pathlib import Path

from replicator.store import environment, snapshot


def restore_copy(copy: Path, store: Path) -> None:
    """Raises `SnapshotError`."""
    with environment.replacing(store) as file:
        shutil.copyfile(copy / "data.mdb", file)
        snapshot.check_meta(snapshot.meta_of(file), snapshot.read_manifest(copy))
