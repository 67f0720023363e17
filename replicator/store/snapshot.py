"""Snapshots: copies of a store as of one offset. A replica restored from one reads the log from the next offset.

<folder>/<offset>-<first 8 digits of the chain>/data.mdb        compact LMDB copy
                                                /manifest.json  written last: a folder without it is not a snapshot
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from replicator.errors import SnapshotError, StoreError
from replicator.protocol.log_state import LogState
from replicator.store import environment
from replicator.store.durable import sync
from replicator.store.environment import replace_with
from replicator.store.machine import read_meta
from replicator.store.meta import FORMAT

OnChecked = Callable[[int, int], None]
"""Called with the number of bytes that were read for the checksum, and how many there are."""

_MANIFEST, _UNFINISHED = "manifest.json", ".unfinished"
_CHUNK_BYTES = 1 << 20


def _ignore(checked: int, total: int) -> None:
    pass


@dataclass(frozen=True, slots=True)
class Manifest:
    name: str
    cluster: str
    topic_id: str
    timeline: str
    offset: int  # of the last record applied
    seq: int
    epoch: int
    chain: str
    digest: str
    entries: int
    bytes: int
    sha256: str  # of data.mdb
    taken_at_ms: int  # since 1970
    format: int = FORMAT


def take(copy: Callable[[Path], None], folder: Path) -> Manifest:
    """Make a snapshot in `folder`. `copy` copies the store to a folder: `Machine.copy_to`, or `environment.copy`.

    Raises `SnapshotError`, `StoreFull`, `StoreError`; no files are left behind then.
    """
    with unfinished(folder) as new:
        copy(new)
        manifest = _describe(new)
        (new / _MANIFEST).write_text(json.dumps(asdict(manifest), indent=2) + "\n")
        sync(new / "data.mdb")
        sync(new / _MANIFEST)
        final = folder / manifest.name
        if final.exists():
            with contextlib.suppress(SnapshotError):
                if _state_of(read_manifest(final)) == _state_of(manifest):
                    return read_manifest(final)
            delete(final)
        os.rename(new, final)
        sync(folder)
        return manifest


def _state_of(manifest: Manifest) -> tuple[str, str, str, int]:
    return manifest.topic_id, manifest.chain, manifest.digest, manifest.format


@contextlib.contextmanager
def unfinished(folder: Path) -> Iterator[Path]:
    """An empty folder in `folder`, which is deleted at the end unless it was renamed. Raises `SnapshotError`."""
    new = folder / f".{uuid.uuid4().hex}{_UNFINISHED}"
    try:
        new.mkdir(mode=0o700, parents=True)
    except OSError as error:
        raise SnapshotError(f"{folder} cannot store snapshots: {error.strerror}. Choose another folder") from error
    try:
        yield new
    finally:
        shutil.rmtree(new, ignore_errors=True)


def delete(copy: Path) -> None:
    """A snapshot, or what is left of one: it is none any more, even if this process is killed meanwhile."""
    if copy.is_dir():
        left = copy.with_name(f".{uuid.uuid4().hex}{_UNFINISHED}")
        os.rename(copy, left)
        shutil.rmtree(left, ignore_errors=True)
    else:
        copy.unlink(missing_ok=True)


def delete_unfinished(folder: Path) -> None:
    """What processes that were killed have left. Nothing else may be in progress in the folder."""
    for left in folder.glob(f".*{_UNFINISHED}"):
        shutil.rmtree(left, ignore_errors=True)


def take_alone(copy: Callable[[Path], None], folder: Path) -> Manifest:
    """As `take`, and delete what else is in the folder."""
    manifest = take(copy, folder)
    for other in folder.iterdir():
        if other.name != manifest.name:
            shutil.rmtree(other, ignore_errors=True)
    return manifest


def listed(folder: Path) -> list[Manifest]:
    """The complete snapshots, the highest offset first. Raises `SnapshotError` if one cannot be read."""
    if not folder.is_dir():
        return []
    found = [read_manifest(file.parent) for file in folder.glob(f"[!.]*/{_MANIFEST}")]
    return sorted(found, key=lambda manifest: manifest.offset, reverse=True)


def read_manifest(snapshot: Path) -> Manifest:
    """Raises `SnapshotError`."""
    if not snapshot.is_dir():
        raise SnapshotError(f"there is no snapshot {snapshot.name}: see `replicator snapshot list`")
    try:
        return Manifest(**json.loads((snapshot / _MANIFEST).read_text()))
    except (OSError, ValueError, TypeError) as error:
        raise SnapshotError(f"{snapshot} is not a complete snapshot ({error}): delete this folder") from error


def read_state(snapshot: Path) -> LogState:
    """The state of the log at the offset of a snapshot. Raises `SnapshotError`."""
    read_manifest(snapshot)
    try:
        with environment.read_only(snapshot) as env:
            meta = environment.read_meta(env)
    except StoreError as error:
        raise SnapshotError(f"{snapshot} cannot be read ({error}): take another one") from error
    if meta is None:
        raise SnapshotError(f"{snapshot} is empty: take another one")
    return meta.state


def entries(snapshot: Path, after: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
    """Store keys and values of a snapshot, in the order of the keys, after that key. Raises `StoreError`."""
    with environment.read_only(snapshot) as env, env.begin(db=env.open_db(b"entries", create=False)) as txn:
        cursor = txn.cursor()
        if cursor.set_range(after):
            yield from ((key, value) for key, value in cursor if key != after)


def restore(snapshot: Path, store: Path, cluster: str, on_checked: OnChecked = _ignore) -> Manifest:
    """Check a snapshot against its manifest, and replace a store that is not open with a copy of it.

    `on_checked` is called while the snapshot is read for its checksum.

    Raises `SnapshotError`; the store is then unchanged.
    """
    manifest = read_manifest(snapshot)
    if manifest.cluster != cluster:
        raise SnapshotError(f"{snapshot} is of cluster {manifest.cluster}, not {cluster}: choose another one")
    if manifest.format != FORMAT:
        raise SnapshotError(f"{snapshot} has format {manifest.format}, but this program reads format {FORMAT}")
    if _sha256(snapshot / "data.mdb", on_checked) != manifest.sha256:
        raise SnapshotError(f"{snapshot}/data.mdb does not match its manifest (sha256): take a new snapshot")
    replace_with(store, snapshot)
    return manifest


def _describe(copy: Path) -> Manifest:
    meta = read_meta(copy)
    if meta is None:
        raise SnapshotError("the store is still empty: write something first")
    (copy / "lock.mdb").unlink(missing_ok=True)
    state, digest = meta.state, f"{meta.digest:032x}"
    return Manifest(
        name=f"{state.offset:020d}-{state.chain.hex()[:8]}",  # other logs may have the same content at this offset
        cluster=meta.cluster,
        topic_id=meta.topic_id,
        timeline=state.timeline.hex(),
        offset=state.offset,
        seq=state.seq,
        epoch=state.epoch,
        chain=state.chain.hex(),
        digest=digest,
        entries=meta.entries,
        bytes=(copy / "data.mdb").stat().st_size,
        sha256=_sha256(copy / "data.mdb", _ignore),
        taken_at_ms=time.time_ns() // 1_000_000,
    )


def _sha256(file: Path, on_checked: OnChecked) -> str:
    total, checked, digest = file.stat().st_size, 0, hashlib.sha256()
    with open(file, "rb") as stream:
        while chunk := stream.read(_CHUNK_BYTES):
            digest.update(chunk)
            checked += len(chunk)
            on_checked(checked, total)
    return digest.hexdigest()
