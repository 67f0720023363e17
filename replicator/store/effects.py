"""The changes that the latest commands have made, for the change stream: the log has only the commands.

They are in the LMDB database `effects` of the store, by the seq of the command, and are written in the transaction that
applies it. Snapshots contain them, too. They are not part of the state: the digest does not include them.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import lmdb

from replicator.errors import LogTrimmed
from replicator.limits import EFFECTS_BYTES
from replicator.position import Seq
from replicator.records.fast import decode_write, encode_write
from replicator.records.types import Write
from replicator.store import environment

EFFECTS = b"effects"


def put(txn: Any, database: Any, seq: Seq, write: Write) -> None:
    txn.put(_key(seq), encode_write(write), db=database)


def drop_oldest(txn: Any, database: Any, most_bytes: int = EFFECTS_BYTES) -> None:
    """Delete the oldest ones until all take at most `most_bytes`."""
    cursor = txn.cursor(db=database)
    while _size_bytes(txn, database) > most_bytes and cursor.first():
        cursor.delete()


def _size_bytes(txn: Any, database: Any) -> int:
    pages = txn.stat(database)
    return int(pages["psize"] * (pages["branch_pages"] + pages["leaf_pages"] + pages["overflow_pages"]))


def _key(seq: Seq) -> bytes:
    return seq.to_bytes(8, "big")


class Effects:
    """Reads the effects in a store that another process writes. The store is opened at the first `find`."""

    def __init__(self, store: Path) -> None:
        self._store = store
        self._opened = contextlib.ExitStack()
        self._env: Any = None
        self._database: Any = None

    def close(self) -> None:
        self._opened.close()
        self._env = self._database = None

    def find(self, timeline: bytes, seq: Seq) -> Write | None:
        """The changes of the command; None: the store has not applied it. Raises `LogTrimmed`, `StoreError`."""
        if self._env is None:
            self._env = self._opened.enter_context(environment.shared(self._store))
        found = self._get(seq)
        if found is None:
            meta = environment.read_meta(self._env)
            if meta is None or meta.state.timeline != timeline or meta.state.seq < seq:
                return None
            found = self._get(seq)  # it may have been applied in between
        if found is None:
            raise LogTrimmed(
                f"the store of this node does not keep the changes of the command in record {seq} any more. If no "
                "other node does, `replicator stream reset` and `replicator stream enable --from snapshot` start anew"
            )
        return decode_write(found)

    def _get(self, seq: Seq) -> bytes | None:
        try:
            if self._database is None:
                self._database = self._env.open_db(EFFECTS, create=False)
        except lmdb.NotFoundError:  # no command was applied by this version
            return None
        with self._env.begin(db=self._database) as txn:
            found: bytes | None = txn.get(_key(seq))
            return found
