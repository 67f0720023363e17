"""The state that the log adds up to, in LMDB.

Three databases: `entries` (store key → value, see `keys` and `values`), `expiry` (when → store key, derived from the
values), `meta` (`meta.Meta`, and the suspended keys if there are any). A batch of records is applied in one
transaction together with its `Meta`, so that a store always stands at exactly one offset.
"""

from __future__ import annotations

import errno
import logging
import os
import shutil
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import lmdb
import xxhash

from replicator.errors import Diverged, LogDamage, StoreError, StoreFull
from replicator.position import Seq
from replicator.protocol.log_state import LogState
from replicator.protocol.suspension import Suspended, Suspending
from replicator.records.types import Body, Change, Checkpoint, Claim, Membership, Release, Suspend, Write, WriteMode
from replicator.store import boot
from replicator.store.keys import encode_key
from replicator.store.meta import Meta, decode_meta, decode_suspended, encode_suspended
from replicator.store.values import NO_EXPIRY_TAG as _NO_EXPIRY
from replicator.store.values import expiry_of

FIRST_MAP_BYTES = 1 << 30
_META = b"meta"
_SUSPENDED = b"suspended"
# LMDB's errors carry the system's words only; a write that a full disk cut short is EIO to it
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)
_DIGEST_MASK = (1 << 128) - 1

logger = logging.getLogger(__name__)


def entry_digest(key: bytes, value: bytes) -> int:
    """One live entry's part of the state digest."""
    return int(xxhash.xxh3_128_intdigest(b"%c%c%b%b" % (len(key) >> 8, len(key) & 255, key, value)))


class LmdbView:
    """The store as of the last batch applied. Iterators end being valid with the next one."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine

    def get(self, key: bytes) -> bytes | None:
        txn = self._machine.read_transaction or self._machine.renew()
        value: bytes | None = txn.get(key)
        return value

    def scan(self, start: bytes, stop: bytes) -> Iterator[tuple[bytes, bytes]]:
        txn = self._machine.read_transaction or self._machine.renew()
        return _range(txn.cursor(), start, stop)

    def rows(self, table: str) -> int:
        return self._machine.meta.rows.get(table, 0)


def _range(cursor: Any, start: bytes, stop: bytes) -> Iterator[tuple[bytes, bytes]]:
    if not cursor.set_range(start):
        return
    for key, value in cursor:
        if key >= stop:
            return
        yield key, value


class Machine:
    """One open store. All methods but `copy_to` belong to the node's event loop."""

    def __init__(self, folder: Path, owner: int, env: Any, meta: Meta, suspended: Suspended) -> None:
        """Use `open_machine`."""
        self.folder = folder
        self.meta = meta
        self.suspended = suspended
        self.view = LmdbView(self)
        self.read_transaction: Any = None
        self._owner = owner
        self._env = env
        self._entries = env.open_db(b"entries")
        self._expiry = env.open_db(b"expiry")
        self._info = env.open_db(b"meta")
        self._copying = threading.Lock()

    @property
    def state(self) -> LogState:
        return self.meta.state

    def renew(self) -> Any:
        self.read_transaction = self._env.begin(db=self._entries)
        return self.read_transaction

    def apply(self, bodies: Sequence[Body], state: LogState) -> None:
        """Apply accepted bodies in order, then stand at `state`. All or nothing.

        Raises `Diverged`, `StoreFull`, `StoreError`; the store then stands where it stood.
        """
        self._forget_read()
        while True:
            try:
                with self._env.begin(write=True) as txn:
                    batch = _Batch(txn, self._entries, self._expiry, self.meta, self.suspended)
                    batch.apply(bodies)
                    meta = batch.meta(state)
                    txn.put(_META, meta.encode(), db=self._info)
                    if batch.suspending.changed:
                        txn.put(_SUSPENDED, encode_suspended(batch.suspending.keys), db=self._info)
            except lmdb.MapFullError:
                self._grow()
            except lmdb.Error as error:
                raise _store_error(self.folder, error) from error
            else:
                self.meta, self.suspended = meta, batch.suspending.keys
                return

    def expired(self, now_ms: int, limit: int) -> list[bytes]:
        """Store keys of at most `limit` values whose time has come, the oldest first."""
        with self._env.begin(db=self._expiry) as txn:
            keys: list[bytes] = []
            for when, key in txn.cursor():
                if len(keys) == limit or int.from_bytes(when[:8], "big") > now_ms:
                    break
                keys.append(key)
            return keys

    def next_expiry_ms(self) -> int | None:
        """When the next value expires (ms since 1970)."""
        with self._env.begin(db=self._expiry) as txn:
            cursor = txn.cursor()
            return int.from_bytes(cursor.key()[:8], "big") if cursor.first() else None

    def recount(self) -> tuple[int, int]:
        """Digest and number of entries, from every entry."""
        digest = entries = 0
        with self._env.begin(db=self._entries) as txn:
            for key, value in txn.cursor():
                digest += entry_digest(key, value)
                entries += 1
        return digest & _DIGEST_MASK, entries

    def reserve_for_copy(self) -> None:
        """Make the map so large that it will hardly have to grow, and so wait, while a copy is being made."""
        used = (self._env.info()["last_pgno"] + 1) * self._env.stat()["psize"]
        self._forget_read()
        while self._env.info()["map_size"] < 4 * used:
            self._grow()

    def copy_to(self, folder: Path) -> None:
        """A compact copy as of some moment during the call. For a worker thread: the store goes on meanwhile."""
        with self._copying:
            try:
                self._env.copy(str(folder), compact=True)
            except lmdb.Error as error:
                raise _store_error(folder, error) from error

    def close(self) -> None:
        self._forget_read()
        self._env.sync(True)
        self._env.close()
        boot.mark_closed(self.folder)
        os.close(self._owner)

    def _forget_read(self) -> None:
        if self.read_transaction is not None:
            self.read_transaction.abort()
            self.read_transaction = None

    def _grow(self) -> None:
        with self._copying:  # LMDB may be resized only while nothing reads
            size = self._env.info()["map_size"] * 2
            self._env.set_mapsize(size)
        logger.info("store %s: map grown to %d MiB", self.folder, size >> 20)


class _Batch:
    """One transaction of `Machine.apply`."""

    def __init__(self, txn: Any, entries: Any, expiry: Any, before: Meta, suspended: Suspended) -> None:
        self._txn = txn
        self._entries = entries
        self._expiry = expiry
        self._before = before
        self._digest = before.digest
        self._count = before.entries
        self._rows = before.rows.copy()
        self._membership = before.membership
        self.suspending = Suspending(suspended)

    def apply(self, bodies: Sequence[Body]) -> None:
        suspends = self._membership.policy.write is WriteMode.INVALIDATE or bool(self.suspending.keys)
        for seq, body in enumerate(bodies, self._before.state.seq + 1):
            if type(body) is Write:
                for change in body.changes:
                    self._change(change)
                if suspends:
                    self._suspend_written(Seq(seq), body)
            elif type(body) is Membership:
                self._membership = body
                suspends = suspends or body.policy.write is WriteMode.INVALIDATE
            elif type(body) is Checkpoint:
                self._compare(body)
            elif type(body) is Suspend:
                self.suspending.announce(Seq(seq), body.keys)
                suspends = True
            elif type(body) is Release:
                self.suspending.release(body.up_to_seq)
            elif type(body) is Claim:
                self.suspending.claim()

    def _suspend_written(self, seq: Seq, body: Write) -> None:
        for table, row, field, _, _ in body.changes:
            self.suspending.write(seq, encode_key(table, row, field), self._membership.policy.write)

    def meta(self, state: LogState) -> Meta:
        before = self._before
        return Meta(
            before.cluster,
            before.topic_id,
            state,
            self._digest & _DIGEST_MASK,
            self._count,
            self._rows,
            self._membership,
        )

    def _change(self, change: Change) -> None:
        table, row, field, old, new = change
        key = encode_key(table, row, field)
        txn, entries = self._txn, self._entries
        if new is None:
            found = txn.pop(key, db=entries)
        elif old is None:
            found = None if txn.put(key, new, overwrite=False, db=entries) else txn.get(key, db=entries)
        else:
            found = txn.replace(key, new, db=entries)
        if found != old:
            raise Diverged(
                f"the log changes {key!r} from {_short(old)}, but this store holds {_short(found)}: "
                "move the store away and build it again from a snapshot or the log"
            )
        if old is not None:
            self._digest -= entry_digest(key, old)
        if new is not None:
            self._digest += entry_digest(key, new)
        if (old is None) is not (new is None):
            step = 1 if old is None else -1
            self._count += step
            if not field:
                self._rows[table] = self._rows.get(table, 0) + step
        if (old is None or old[0] >= _NO_EXPIRY) and (new is None or new[0] >= _NO_EXPIRY):
            return  # as most, cheaply
        before, after = expiry_of(old), expiry_of(new)
        if before != after:
            if before is not None:
                txn.delete(_expiry_key(before, key), db=self._expiry)
            if after is not None:
                txn.put(_expiry_key(after, key), key, db=self._expiry)

    def _compare(self, checkpoint: Checkpoint) -> None:
        digest = self._digest & _DIGEST_MASK
        if (digest, self._count) != (checkpoint.digest, checkpoint.entries):
            raise Diverged(
                f"a checkpoint has digest {checkpoint.digest:032x} over {checkpoint.entries} entries, this store "
                f"{digest:032x} over {self._count}: move it away and build it again from a snapshot or the log"
            )


def _expiry_key(when_ms: int, key: bytes) -> bytes:
    """A key of at most 511 bytes for any store key (two that expire in one ms differ by their hash)."""
    return when_ms.to_bytes(8, "big") + bytes(xxhash.xxh3_64_digest(key))


def _short(value: bytes | None) -> str:
    return "nothing" if value is None else repr(value[:40])


def open_machine(folder: Path, cluster: str, topic_id: str, *, map_bytes: int = FIRST_MAP_BYTES) -> Machine:
    """The store in `folder`, an empty one if there is none or the operating system crashed under it.

    Raises `StoreError` (in use, unreadable, of another cluster) and `LogDamage` (of another topic).
    """
    folder.mkdir(parents=True, exist_ok=True)
    owner = boot.own(folder)
    env = None
    try:
        this_boot = boot.boot_id()
        if boot.crashed(folder, this_boot):
            logger.warning("the system went down while %s was open: its store is discarded and built again", folder)
            discard(folder)
        env = _open_env(folder, map_bytes)
        meta = _read_meta(env) or Meta(cluster, topic_id)
        _check_identity(folder, meta, cluster, topic_id)
        boot.mark_open(folder, this_boot)
        return Machine(folder, owner, env, meta, _read_suspended(env))
    except BaseException:
        if env is not None:
            env.close()
        os.close(owner)
        raise


def discard(folder: Path) -> None:
    """Remove a store that is not open."""
    for name in ("data.mdb", "lock.mdb"):
        (folder / name).unlink(missing_ok=True)
    boot.mark_closed(folder)


def read_meta(folder: Path) -> Meta | None:
    """What a store that is not open knows of itself; None if it is empty. Raises `StoreError`."""
    env = _open_env(folder, FIRST_MAP_BYTES)
    try:
        return _read_meta(env)
    finally:
        env.close()


def replace_with(folder: Path, copy: Path) -> None:
    """Put a copy made by `copy_to` in the place of a store that is not open."""
    folder.mkdir(parents=True, exist_ok=True)
    discard(folder)
    shutil.copyfile(copy / "data.mdb", folder / "data.mdb.new")
    os.replace(folder / "data.mdb.new", folder / "data.mdb")


def _open_env(folder: Path, map_bytes: int) -> Any:
    try:
        file = folder / "data.mdb"
        size = max(map_bytes, 2 * file.stat().st_size if file.exists() else 0)
        # writemap would turn a full disk into SIGBUS; without it, it is an error that we can tell
        return lmdb.open(str(folder), map_size=size, max_dbs=3, sync=False, metasync=False, readahead=False)
    except lmdb.Error as error:
        raise _store_error(folder, error) from error


def _read_meta(env: Any) -> Meta | None:
    with env.begin(db=env.open_db(b"meta")) as txn:
        encoded = txn.get(_META)
    return None if encoded is None else decode_meta(encoded)


def _read_suspended(env: Any) -> Suspended:
    with env.begin(db=env.open_db(b"meta")) as txn:
        encoded = txn.get(_SUSPENDED)
    return {} if encoded is None else decode_suspended(encoded)


def _check_identity(folder: Path, meta: Meta, cluster: str, topic_id: str) -> None:
    if meta.cluster != cluster:
        raise StoreError(f"{folder} belongs to cluster {meta.cluster}, not {cluster}: check --cluster and the folder")
    if meta.topic_id != topic_id:
        raise LogDamage(
            f"{folder} follows the topic with id {meta.topic_id}, but the topic there now has id {topic_id}: it was "
            "deleted and made anew. Start from a snapshot in a new cluster, or move the store away to begin afresh"
        )


def _store_error(folder: Path, error: Exception) -> StoreError:
    if any(os.strerror(number) in str(error) for number in _FULL):
        return StoreFull(
            f"{folder} cannot be written, its disk is full or failing ({error}): free some space. Nothing was skipped"
        )
    return StoreError(f"the store in {folder} failed: {error}")
