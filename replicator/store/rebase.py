"""Gives the content of a store another log to follow."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from replicator.errors import StoreError
from replicator.protocol.log_state import LogState
from replicator.records.types import Membership
from replicator.store import boot, environment
from replicator.store.meta import Meta


def rebase(
    folder: Path,
    cluster: str,
    topic_id: str,
    state: Callable[[LogState], LogState],
    membership: Callable[[Membership], Membership],
) -> None:
    """Of a store that is not open. The entries, and what is suspended, stay as they are.

    Raises `StoreError`.
    """
    lock = boot.lock(folder)
    try:
        env = environment.open_environment(folder)
        try:
            meta = environment.read_meta(env)
            if meta is None:
                raise StoreError(f"the store in {folder} is empty: restore a snapshot first")
            rebased = Meta(
                cluster,
                topic_id,
                state(meta.state),
                meta.digest,
                meta.entries,
                meta.rows,
                membership(meta.membership),
            )
            with env.begin(write=True) as txn:
                environment.write_meta(txn, env.open_db(b"meta", txn), rebased)
            env.sync(True)
        finally:
            env.close()
    finally:
        os.close(lock)


def without_processes(membership: Membership) -> Membership:
    """The same members, of which no process has registered: those of another log do not count."""
    return replace(membership, members=tuple(replace(it, incarnation=0) for it in membership.members))
