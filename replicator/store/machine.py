"""The state machine: an open store, to which the records of the log are applied.

A batch of records is applied in one LMDB transaction together with its `Meta`, so a store is always at exactly one
offset of the log.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lmdb

from replicator.errors import Diverged, LogReplaced, StoreError, StoreUnreadable
from replicator.limits import AUDIT_BYTES, AUDIT_ENTRIES
from replicator.position import Seq
from replicator.protocol.log_state import LogState
from replicator.protocol.suspension import Suspended
from replicator.protocol.timing import LoggedTiming
from replicator.records.types import Single, Write
from replicator.store import boot, effects, environment
from replicator.store.audit import StoreAudit
from replicator.store.batch import RecordBatch
from replicator.store.digest import recount
from replicator.store.lmdb_view import LmdbView
from replicator.store.meta import Meta

logger = logging.getLogger(__name__)


class Machine:
    """All methods except `copy_to` must be called from the event loop of the node."""

    def __init__(
        self, folder: Path, lock: int, env: Any, meta: Meta, suspended: Suspended, timing: LoggedTiming
    ) -> None:
        """Use `open_machine`. `lock`: the descriptor that `boot.lock` returned."""
        self.folder = folder
        self.meta = meta  # as of the last committed transaction, like `suspended` and `timing`
        self.suspended = suspended
        self.timing = timing
        self._lock = lock
        self._env = env
        self._entries = env.open_db(b"entries")
        self._expiry = env.open_db(b"expiry")
        self._meta = env.open_db(b"meta")
        self._effects = env.open_db(effects.EFFECTS)
        found = self._file.stat()
        self._opened, self._size = (found.st_dev, found.st_ino), found.st_size  # of its file, which LMDB never shortens
        self._copying = threading.Lock()
        self.view = LmdbView(env, self._entries, meta.rows)
        self._next_expiry_ms = self._read_next_expiry()
        self._audit: StoreAudit | None = None

    @property
    def state(self) -> LogState:
        return self.meta.state

    def apply(self, bodies: Sequence[Single], state: LogState, commands: Sequence[int] = ()) -> None:
        """Apply the bodies of accepted records in order; `state` is the state after them. All or nothing.

        `commands`: the places of those that are commands in the log, whose effects are kept.
        Raises `Diverged`, `StoreFull`, `StoreError`; the store is then unchanged.
        """
        self.view.end_transaction()
        while True:
            try:
                with self._env.begin(write=True) as txn:
                    audited = b"" if self._audit is None else self._audit.position
                    batch = RecordBatch(
                        txn, self._entries, self._expiry, self.meta, self.suspended, self.timing, audited
                    )
                    batch.apply(bodies)
                    if commands:
                        self._keep_effects(txn, bodies, commands)
                    meta = batch.meta(state)
                    environment.write_meta(txn, self._meta, meta)
                    if batch.suspended.changed:
                        environment.write_suspended(txn, self._meta, batch.suspended.keys)
                    if batch.timing is not self.timing:
                        environment.write_timing(txn, self._meta, batch.timing)
            except lmdb.MapFullError:
                self._grow()
            except lmdb.Error as error:
                raise environment.store_error(self.folder, error) from error
            else:
                self.meta, self.suspended, self.timing = meta, batch.suspended.keys, batch.timing
                if self._audit is not None:
                    self._audit.note(batch.audited_digest, batch.audited_entries)
                self.view.set_rows(meta.rows)
                if batch.changed_expiry:
                    self._next_expiry_ms = self._read_next_expiry()
                return

    def _keep_effects(self, txn: Any, bodies: Sequence[Single], commands: Sequence[int]) -> None:
        for place in commands:
            body = bodies[place]
            assert type(body) is Write
            effects.put(txn, self._effects, Seq(self.state.seq + 1 + place), body)
        effects.drop_oldest(txn, self._effects)

    @property
    def size_bytes(self) -> int:
        """On disk. 0 if its file was deleted, which the next audit finds."""
        try:
            return self._file.stat().st_size
        except FileNotFoundError:
            return 0

    @property
    def _file(self) -> Path:
        return self.folder / "data.mdb"

    def _check_file(self) -> None:
        """An open file goes on to work after it was deleted, and one that was truncated ends the process (SIGBUS).

        Raises `StoreUnreadable`.
        """
        try:
            found = self._file.stat()
        except FileNotFoundError:
            raise environment.unreadable(self.folder, "data.mdb was deleted") from None
        if (found.st_dev, found.st_ino) != self._opened:
            raise environment.unreadable(self.folder, "data.mdb was replaced")
        if found.st_size < self._size:
            raise environment.unreadable(self.folder, "data.mdb was truncated")
        self._size = found.st_size

    def expired(self, now_ms: int, limit: int) -> list[bytes]:
        """Store keys of at most `limit` values that have expired, the oldest first."""
        with self._env.begin(db=self._expiry) as txn:
            keys: list[bytes] = []
            for when, key in txn.cursor():
                if len(keys) == limit or int.from_bytes(when[:8], "big") > now_ms:
                    break
                keys.append(key)
            return keys

    def next_expiry_ms(self) -> int | None:
        """When the next value expires (ms since 1970); None if no value has an expiry."""
        return self._next_expiry_ms

    def count_expiring(self) -> int:
        """The number of values that have an expiry. Takes no longer if there are many."""
        with self._env.begin() as txn:
            count: int = txn.stat(self._expiry)["entries"]
            return count

    def _read_next_expiry(self) -> int | None:
        with self._env.begin(db=self._expiry) as txn:
            cursor = txn.cursor()
            return int.from_bytes(cursor.key()[:8], "big") if cursor.first() else None

    def audit(self) -> bool:
        """Read the next slice of the store, and compare its digest once all was read. Returns whether it was.

        Raises `Diverged`, `StoreError`.
        """
        self._check_file()
        if self._audit is None:
            self._audit = StoreAudit()
        audit = self._audit
        try:
            with self._env.begin(db=self._entries) as txn:
                audit.read(txn.cursor(), AUDIT_ENTRIES, AUDIT_BYTES)
        except lmdb.Error as error:
            raise environment.store_error(self.folder, error) from error
        if not audit.is_complete:
            return False
        self._audit = None
        if audit.sums != (self.meta.digest, self.meta.entries):
            digest, entries = audit.sums
            raise Diverged(
                f"the {entries} entries of this store have digest {digest:032x}, but it was {self.meta.digest:032x} "
                f"over {self.meta.entries} when they were written: the disk or the memory of this machine is faulty"
            )
        return True

    def recount(self) -> tuple[int, int]:
        """The digest and the number of entries, computed from all entries."""
        with self._env.begin(db=self._entries) as txn:
            return recount(txn.cursor())

    @property
    def map_bytes(self) -> int:
        """To how much the store can grow until the map does."""
        size: int = self._env.info()["map_size"]
        return size

    def forget_dead_readers(self) -> None:
        """Of processes that were killed while they copied the store: LMDB would keep what they were reading."""
        self._env.reader_check()

    def reserve_for_copy(self, free_bytes: int = 0) -> None:
        """Grow the map in advance: it cannot grow during a copy, so a batch that needs more space would block.

        A snapshot of `view` ends when it grows. `free_bytes`: at least so much more than it has; the file stays small.
        """
        used = (self._env.info()["last_pgno"] + 1) * self._env.stat()["psize"]
        self.view.end_transaction()
        while self.map_bytes < max(4 * used, used + free_bytes):
            self._grow()

    def copy_to(self, folder: Path) -> None:
        """Make a compact copy as of one moment during the call. For a worker thread: the store can be used meanwhile.

        Raises `StoreFull`, `StoreError`.
        """
        with self._copying:
            try:
                self._env.copy(str(folder), compact=True)
            except lmdb.Error as error:
                raise environment.store_error(folder, error) from error

    def wait_for_copy(self) -> None:
        """Wait for the end of a copy in another thread. For a worker thread; `close` would block."""
        with self._copying:
            pass

    def close(self) -> None:
        self.view.end_transaction()
        self.view.end_snapshots()
        with self._copying:
            self._env.sync(True)
            self._env.close()
        boot.mark_closed(self.folder)
        os.close(self._lock)

    def _grow(self) -> None:
        with self._copying:  # LMDB may be resized only while no transaction is open
            self.view.end_snapshots()
            size = self.map_bytes * 2
            self._env.set_mapsize(size)
        logger.info("store %s: map size is now %d MiB", self.folder, size >> 20)


def open_machine(folder: Path, cluster: str, topic_id: str, *, map_bytes: int = environment.FIRST_MAP_BYTES) -> Machine:
    """Open the store in `folder`. It is empty if the folder is new, or if the system crashed while it was open.

    Raises `StoreError` (in use, unreadable, of another cluster) and `LogReplaced` (of another topic).
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    lock = boot.lock(folder)
    env = None
    try:
        environment.forget_replacement(folder)
        this_boot = boot.boot_id()
        if boot.crashed(folder, this_boot):
            logger.warning("the operating system crashed while %s was open: the store is discarded and rebuilt", folder)
            environment.discard(folder)
        was_marked = boot.is_marked(folder)
        boot.mark_open(folder, this_boot)
        env = environment.open_environment(folder, map_bytes)
        meta = environment.read_meta(env) or Meta(cluster, topic_id)
        _check_identity(folder, meta, cluster, topic_id)
        return Machine(folder, lock, env, meta, environment.read_suspended(env), environment.read_timing(env))
    except BaseException as error:
        if env is not None:
            env.sync(True)
            env.close()
            if not was_marked:
                boot.mark_closed(folder)
        os.close(lock)
        if isinstance(error, lmdb.Error):
            raise environment.store_error(folder, error) from error
        raise


def has_followed_a_log(folder: Path) -> bool:
    """Whether a store that is not open was built from a log, also if it will be discarded. Raises `StoreError`."""
    if not (folder / "data.mdb").exists():
        return False
    try:
        return boot.crashed(folder, boot.boot_id()) or read_meta(folder) is not None
    except StoreUnreadable:
        return True


def read_meta(folder: Path) -> Meta | None:
    """The metadata of a store that is not open; None if it is empty, or will be discarded. Raises `StoreError`."""
    if boot.crashed(folder, boot.boot_id()):
        return None
    env = environment.open_environment(folder)
    try:
        return environment.read_meta(env)
    except lmdb.Error as error:
        raise environment.store_error(folder, error) from error
    finally:
        env.close()


def _check_identity(folder: Path, meta: Meta, cluster: str, topic_id: str) -> None:
    if meta.cluster != cluster:
        raise StoreError(
            f"{folder} belongs to cluster {meta.cluster}, not {cluster}: check --cluster and the folder. If {cluster} "
            f"was restored from {meta.cluster}, move this store away, and start from a snapshot of {cluster}"
        )
    if meta.topic_id != topic_id:
        raise LogReplaced(
            f"{folder} follows the topic with id {meta.topic_id}, but the topic now has id {topic_id}: it was deleted "
            "and recreated. Start a new cluster from a snapshot, or move the store away to start with an empty one"
        )
