"""Snapshots: copies of a store as of one offset. A replica restored from one reads the log from the next offset.

<folder>/<offset>-<first 8 digits of the chain>/data.mdb        compact LMDB copy
                                                /manifest.json  written last: a folder without it is not a snapshot

A repository (`replicator.snapshots`) has them in another form.
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

from replicator import __version__
from replicator.errors import SnapshotError, StoreError
from replicator.position import Author, Epoch, NodeId, Offset, Seq
from replicator.protocol.log_state import LogState
from replicator.store import environment
from replicator.store.digest import recount
from replicator.store.durable import sync
from replicator.store.machine import read_meta
from replicator.store.meta import FORMAT, Meta

_MANIFEST, _UNFINISHED = "manifest.json", ".unfinished"
_REPORTED_ENTRIES = 20_000


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
    leader: str = ""  # at that offset, and its incarnation; empty: not written, as by earlier versions
    incarnation: int = 0
    leader_offset: int = 0  # of the last accepted record
    written_by: str = ""  # the version of the program

    @property
    def state(self) -> LogState | None:
        """Of the log; None: not known."""
        if not self.leader:
            return None
        return LogState(
            bytes.fromhex(self.timeline),
            Epoch(self.epoch),
            Author(NodeId(self.leader), self.incarnation),
            Seq(self.seq),
            bytes.fromhex(self.chain),
            Offset(self.offset),
            Offset(self.leader_offset),
        )


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


def read_manifest(snapshot: Path) -> Manifest:
    """Raises `SnapshotError`."""
    if not snapshot.is_dir():
        raise SnapshotError(f"there is no snapshot {snapshot.name}: see `replicator snapshot list`")
    try:
        return Manifest(**json.loads((snapshot / _MANIFEST).read_text()))
    except (OSError, ValueError, TypeError) as error:
        raise SnapshotError(f"{snapshot} is not a complete snapshot ({error}): delete this folder") from error


def meta_of(copy: Path) -> Meta:
    """The metadata of a copy, which is not open: its folder, or the file. Raises `SnapshotError`."""
    try:
        with environment.read_only(copy) as env:
            meta = environment.read_meta(env)
    except StoreError as error:
        raise SnapshotError(f"{copy} cannot be read ({error}): use another snapshot") from error
    if meta is None:
        raise SnapshotError(f"{copy} is empty: use another snapshot")
    return meta


def check_meta(meta: Meta, manifest: Manifest) -> None:
    """Raises `SnapshotError` if the metadata of a copy are not those of its manifest."""
    state = meta.state
    for what, stored, described in (
        ("cluster", meta.cluster, manifest.cluster),
        ("topic id", meta.topic_id, manifest.topic_id),
        ("timeline", state.timeline.hex(), manifest.timeline),
        ("offset", state.offset, manifest.offset),
        ("seq", state.seq, manifest.seq),
        ("epoch", state.epoch, manifest.epoch),
        ("chain", state.chain.hex(), manifest.chain),
        ("digest", f"{meta.digest:032x}", manifest.digest),
        ("entries", meta.entries, manifest.entries),
        ("state of the log", state, manifest.state or state),
    ):
        if stored != described:
            raise SnapshotError(
                f"the {what} of snapshot {manifest.name} is {stored}, and its manifest has {described}: use another one"
            )


def check_content(copy: Path, on_counted: Callable[[int], object] = lambda count: None) -> None:
    """Compute the digest of a copy from every entry. `on_counted` is called now and then with the number so far.

    Raises `SnapshotError` if it is not the digest in its metadata.
    """

    def counted() -> Iterator[tuple[bytes, bytes]]:
        for count, entry in enumerate(entries(copy), 1):
            if count % _REPORTED_ENTRIES == 0:
                on_counted(count)
            yield entry

    meta = meta_of(copy)
    try:
        digest, count = recount(counted())
    except StoreError as error:
        raise SnapshotError(f"{copy} cannot be read ({error}): use another snapshot") from error
    if (digest, count) != (meta.digest, meta.entries):
        raise SnapshotError(
            f"{count} entries have the digest {digest:032x}, and the snapshot was taken of {meta.entries} with "
            f"{meta.digest:032x}: use another one"
        )


def entries(copy: Path, after: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
    """Store keys and values of a copy, in the order of the keys, after that key. Raises `StoreError`."""
    with environment.read_only(copy) as env, env.begin(db=env.open_db(b"entries", create=False)) as txn:
        cursor = txn.cursor()
        if cursor.set_range(after):
            yield from ((key, value) for key, value in cursor if key != after)


def _describe(copy: Path) -> Manifest:
    meta = read_meta(copy)
    if meta is None:
        raise SnapshotError("the store is still empty: write something first")
    (copy / "lock.mdb").unlink(missing_ok=True)
    state = meta.state
    with open(copy / "data.mdb", "rb") as data:
        sha256 = hashlib.file_digest(data, "sha256").hexdigest()
    return Manifest(
        name=f"{state.offset:020d}-{state.chain.hex()[:8]}",  # other logs may have the same content at this offset
        cluster=meta.cluster,
        topic_id=meta.topic_id,
        timeline=state.timeline.hex(),
        offset=state.offset,
        seq=state.seq,
        epoch=state.epoch,
        chain=state.chain.hex(),
        digest=f"{meta.digest:032x}",
        entries=meta.entries,
        bytes=(copy / "data.mdb").stat().st_size,
        sha256=sha256,
        taken_at_ms=time.time_ns() // 1_000_000,
        leader=state.leader.node if state.leader else "",
        incarnation=state.leader.incarnation if state.leader else 0,
        leader_offset=max(0, state.leader_offset),
        written_by=__version__,
    )
