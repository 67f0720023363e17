"""The stores of the nodes of a cluster that was restored: its log does not have the content with which it began."""

from __future__ import annotations

import os
import shutil

from replicator.errors import SnapshotError, StoreError
from replicator.local.folder import STORE, ClusterFile, ClusterFolder
from replicator.local.progress import ProgressReporter
from replicator.local.snapshots import best, restore
from replicator.snapshots.repository import Repository
from replicator.store.machine import read_meta

FORMER_STORE = f"{STORE}.former"


def prepare_store(folder: ClusterFolder, cluster: ClusterFile, id: str, progress: ProgressReporter) -> None:
    """Before a node starts that does not run: let it start from a snapshot of its cluster, unless it has a store of it.

    The store of a former cluster is kept beside, the last one. A snapshot that is damaged is skipped.
    Raises `SnapshotError`, `RepositoryUnavailable`, `StoreFull`.
    """
    if not cluster.former or folder.process(id) is not None:
        return
    store = folder.node_dir(id) / STORE
    try:
        meta = read_meta(store) if (store / "data.mdb").exists() else None  # None: also if it will be discarded
    except StoreError:
        return  # the node will say what is wrong with it
    if meta is not None and meta.cluster == cluster.name:
        return
    if meta is not None:
        kept = store.with_name(FORMER_STORE)
        shutil.rmtree(kept, ignore_errors=True)
        os.rename(store, kept)
        progress.done(f"{id}: its store, of cluster {meta.cluster}, is kept in {kept}")
    repository = Repository(folder.repository(cluster))
    try:
        restore(repository, best(repository, cluster.name), store, progress)
    except SnapshotError as error:
        raise SnapshotError(
            f"{id} cannot start from a snapshot of cluster {cluster.name}, which was restored: {error}. Take one at a "
            "node that serves (`replicator snapshot take`), or copy a good one to the repository"
        ) from error
