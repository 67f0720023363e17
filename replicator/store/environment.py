"""The LMDB environment in the folder of a store: open it, read its metadata, remove it, replace it.

It has four databases: `entries` (store key to value, see `keys` and `values`), `expiry` (expiry time to store key,
derived from the values), `meta` (`meta.Meta`, the suspended keys, and the timing according to the log) and `effects`
(see there).
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import lmdb

from replicator.errors import StoreError, StoreFull, StoreUnreadable
from replicator.protocol.suspension import Suspended
from replicator.protocol.timing import LoggedTiming
from replicator.store import boot
from replicator.store.meta import (
    Meta,
    decode_meta,
    decode_suspended,
    decode_timing,
    encode_suspended,
    encode_timing,
)
from replicator.store.pages import lacks_pages

T = TypeVar("T")

FIRST_MAP_BYTES = 1 << 30
_MAX = 4  # databases
_LARGEST_MAP_BYTES = 1 << 40

DAMAGED = "damaged.json"
"""Says that the store must not be opened any more (`replacement`)."""
_NEW, _REPLACING = "data.mdb.new", "replacing"
_META = b"meta"
_SUSPENDED = b"suspended"
_TIMING = b"timing"
# LMDB's errors have the text of the system's error only. It reports a write that a full disk cut short as EIO.
_DAMAGED = (lmdb.InvalidError, lmdb.CorruptedError, lmdb.PageNotFoundError)
_REBUILT = "a node rebuilds it from a snapshot or the log (docs/operations.md)"
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)


def open_environment(folder: Path, map_bytes: int = FIRST_MAP_BYTES) -> Any:
    """Raises `StoreError`."""
    try:
        file = folder / "data.mdb"
        size = map_bytes
        if file.exists():
            _check_pages(file)
            size = max(map_bytes, 2 * file.stat().st_size)
        # with writemap, a full disk would raise SIGBUS instead of an error
        return lmdb.open(str(folder), map_size=size, max_dbs=_MAX, sync=False, metasync=False, readahead=False)
    except lmdb.Error as error:
        raise store_error(folder, error) from error


@contextlib.contextmanager
def read_only(store: Path) -> Iterator[Any]:
    """A store that no process changes: its folder, or the file. Creates no file. Raises `StoreError`."""
    file = store / "data.mdb" if store.is_dir() else store
    if file.exists():
        _check_pages(file)
    try:
        with lmdb.open(str(store), subdir=store.is_dir(), max_dbs=_MAX, readonly=True, lock=False, create=False) as env:
            yield env
    except lmdb.Error as error:
        raise store_error(store, error) from error


def _check_pages(file: Path) -> None:
    """Raises `StoreUnreadable`."""
    if lacks_pages(file):
        raise unreadable(file.parent, "data.mdb was truncated")


@contextlib.contextmanager
def shared(folder: Path) -> Iterator[Any]:
    """For reading a store that another process has opened, and which it may enlarge meanwhile. Raises `StoreError`."""
    try:
        # so large a map is address space only; LMDB refuses to read beyond that of this process
        with lmdb.open(str(folder), map_size=_LARGEST_MAP_BYTES, max_dbs=_MAX, readonly=True, create=False) as env:
            yield env
    except lmdb.Error as error:
        raise store_error(folder, error) from error


def copy(folder: Path, target: Path) -> None:
    """Make a compact copy of a store that may be open in another process, as of one moment during the call.

    Raises `StoreFull`, `StoreError`.
    """
    with shared(folder) as env:
        check_space(target, _used_bytes(env))
        env.copy(str(target), compact=True)


def _used_bytes(env: Any) -> int:
    """What a compact copy takes, about."""
    with env.begin() as txn:
        names = [name for name, _ in txn.cursor()]
        tables = [txn.stat(env.open_db(name, txn, create=False)) for name in names]
        return sum(it["psize"] * (it["branch_pages"] + it["leaf_pages"] + it["overflow_pages"]) for it in tables)


def check_space(folder: Path, needed_bytes: int) -> None:
    """Before a copy is written: if it filled the disk, it would stop others, too. Raises `StoreFull`."""
    free = shutil.disk_usage(folder).free
    if free < needed_bytes:
        raise StoreFull(
            f"a copy of the store needs {needed_bytes} bytes in {folder}, and {free} are free: free some space there"
        )


def read_meta(env: Any) -> Meta | None:
    """None if the store is empty. Raises `lmdb.Error`, `StoreError`."""
    with env.begin(db=env.open_db(b"meta")) as txn:
        encoded = txn.get(_META)
    return None if encoded is None else _decoded(decode_meta, encoded)


def read_suspended(env: Any) -> Suspended:
    with env.begin(db=env.open_db(b"meta")) as txn:
        encoded = txn.get(_SUSPENDED)
    return {} if encoded is None else _decoded(decode_suspended, encoded)


def read_timing(env: Any) -> LoggedTiming:
    with env.begin(db=env.open_db(b"meta")) as txn:
        encoded = txn.get(_TIMING)
    return LoggedTiming() if encoded is None else _decoded(decode_timing, encoded)


def _decoded(decode: Callable[[bytes], T], encoded: bytes) -> T:
    """Raises what `decode` does, and `StoreUnreadable`."""
    try:
        return decode(encoded)
    except (ValueError, LookupError, TypeError, struct.error) as error:
        raise StoreUnreadable(f"the metadata of the store is damaged ({error!r}): {_REBUILT}") from error


def write_meta(txn: Any, database: Any, meta: Meta) -> None:
    txn.put(_META, meta.encode(), db=database)


def write_suspended(txn: Any, database: Any, suspended: Suspended) -> None:
    txn.put(_SUSPENDED, encode_suspended(suspended), db=database)


def write_timing(txn: Any, database: Any, timing: LoggedTiming) -> None:
    txn.put(_TIMING, encode_timing(timing), db=database)


def discard(folder: Path) -> None:
    """Remove a store that is not open."""
    for name in ("data.mdb", "lock.mdb"):
        (folder / name).unlink(missing_ok=True)
    boot.mark_closed(folder)


@contextlib.contextmanager
def replacing(folder: Path) -> Iterator[Path]:
    """Replace a store that is not open with the file that is written to the path; after an error, it is unchanged.

    A node that is started meanwhile waits (`is_being_replaced`). The file need not be on the disk yet: after a crash of
    the operating system, the store is discarded. Raises `StoreError` (it is open), `OSError`.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    lock = boot.lock(folder)
    new, marker = folder / _NEW, folder / _REPLACING
    try:
        marker.touch()
        new.unlink(missing_ok=True)
        yield new
        boot.mark_open(folder, boot.boot_id())
        (folder / "lock.mdb").unlink(missing_ok=True)
        os.replace(new, folder / "data.mdb")  # at no moment there is none
        (folder / DAMAGED).unlink(missing_ok=True)
    finally:
        new.unlink(missing_ok=True)
        os.close(lock)
        marker.unlink(missing_ok=True)  # after the lock: a node that sees the lock also sees why it is locked


def is_being_replaced(folder: Path) -> bool:
    """Whether a process is replacing the store; not if it was killed."""
    return (folder / _REPLACING).exists() and boot.is_locked(folder)


def forget_replacement(folder: Path) -> None:
    """Of a process that was killed. The folder is locked."""
    for name in (_NEW, _REPLACING):
        (folder / name).unlink(missing_ok=True)


def is_full(error: Exception) -> bool:
    """Whether an error of the system, or of LMDB, which has its text only, says that the disk is full or failing."""
    return any(os.strerror(number) in str(error) for number in _FULL)


def unreadable(folder: Path, why: str) -> StoreUnreadable:
    return StoreUnreadable(f"the store in {folder} cannot be read ({why}): {_REBUILT}")


def store_error(folder: Path, error: Exception) -> StoreError:
    """The `StoreError` or `StoreFull` for an error of LMDB, which may have found damaged pages."""
    if is_full(error):
        return StoreFull(
            f"{folder} cannot be written, because its disk is full or failing ({error}): free some space. "
            "No record was skipped"
        )
    if isinstance(error, _DAMAGED):
        return unreadable(folder, str(error))
    return StoreError(
        f"the store in {folder} cannot be used ({error}). If it is damaged, stop this node, move {folder} away, and "
        "start it again: the node rebuilds its store from the log, or from a snapshot (docs/runbook.md)"
    )
