"""A repository of snapshots: a folder, or a bucket of S3, in which replicas find them.

URL/<offset>-<first 8 digits of the chain>/part-00000-<checksum>.zst   parts of the copy (`transfer`)
                                           /manifest.json               written last: without it, it is unfinished
                                           /verification.json           the result of its last verification, if any
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from replicator import formats
from replicator.errors import RepositoryUnavailable, SnapshotError, StoreFull
from replicator.limits import MAX_MANIFEST_BYTES, PART_BYTES
from replicator.snapshots.objects import Objects
from replicator.snapshots.transfer import OnTransferred, Part, receive_parts, send_parts
from replicator.store import environment
from replicator.store.environment import is_full
from replicator.store.meta import FORMAT
from replicator.store.snapshot import Manifest

_MANIFEST, _VERIFICATION = "manifest.json", "verification.json"
_NAME = re.compile(r"\d{20}-[0-9a-f]{8}")
_MAX_TIME_MS = 100_000_000_000_000  # in the year 5138
_MAX_CHARS = 200  # of a field of the manifest
_PART = re.compile(r"part-\d{5,}-[0-9a-f]{16}\.zst")


@dataclass(frozen=True, slots=True)
class StoredSnapshot:
    """A snapshot in a repository."""

    manifest: Manifest
    parts: tuple[Part, ...]
    stored_bytes: tuple[int, ...] = ()  # of each part, compressed; empty: not written, as by earlier versions

    @property
    def name(self) -> str:
        return self.manifest.name

    @property
    def bytes(self) -> int:
        """Uncompressed."""
        return sum(part.bytes for part in self.parts)

    def has_all(self, present: Mapping[str, int]) -> bool:
        """Whether its parts are among these files, with the sizes that they had when it was published."""
        return not self.missing(present)

    def missing(self, present: Mapping[str, int]) -> list[str]:
        """Its parts that are not among these files, or have another size than when it was published."""
        sizes = self.stored_bytes or (None,) * len(self.parts)
        return [
            part.name
            for part, size in zip(self.parts, sizes, strict=True)
            if not present.get(part.name) or size not in (None, present[part.name])
        ]


@dataclass(frozen=True, slots=True)
class Verification:
    """All checks of a snapshot have passed."""

    verified_at_ms: int  # since 1970
    by: str  # the node, or the host


@dataclass(frozen=True, slots=True)
class FailedVerification:
    """A check has failed: the snapshot is not verified, whatever was found before. Earlier versions ignore it."""

    failed_at_ms: int  # since 1970
    by: str  # the node, or the host
    failure: str  # which check, and why


class Repository:
    """For several threads at once. Every method raises `RepositoryUnavailable` and `ConfigError` (access denied)."""

    def __init__(self, url: str) -> None:
        """`url`: a path, or what fsspec knows, such as s3://bucket/prefix."""
        self._objects = Objects(url)
        self.url = self._objects.url

    def check_exists(self) -> None:
        """Before it is only read. The first snapshot creates the folder, but no bucket."""
        self._objects.check_exists()

    def get(self, name: str) -> StoredSnapshot:
        """Raises `SnapshotError`, `Unfinished`."""
        checked_name(name)
        try:
            encoded = self._objects.read(f"{name}/{_MANIFEST}", MAX_MANIFEST_BYTES + 1)
        except FileNotFoundError:
            raise Unfinished(
                f"there is no snapshot {name} in {self.url}, or it is not complete: see `replicator snapshot list`"
            ) from None
        return _decoded(name, encoded)

    def publish(self, copy: Path, manifest: Manifest, on_sent: OnTransferred) -> StoredSnapshot:
        """Upload a copy of a store, of which some parts may be there already. Returns once it is complete.

        Raises `SnapshotError`.
        """
        name = checked_name(manifest.name)
        present = self._objects.sizes(name)
        if _MANIFEST in present:
            found = self._complete(manifest, present)
            if isinstance(self.verification(name), FailedVerification):
                present = {}  # send all parts again
            elif found is not None:
                return found

        def send(part: str, data: bytes) -> None:
            self._objects.write(f"{name}/{part}", data)

        parts = send_parts(copy / "data.mdb", send, lambda part: bool(present.get(part)), on_sent)
        sizes = self._objects.sizes(name)
        stored = StoredSnapshot(manifest, parts, tuple(sizes.get(part.name, 0) for part in parts))
        self._objects.delete(f"{name}/{_VERIFICATION}")  # of one whose parts were lost
        self._objects.write(f"{name}/{_MANIFEST}", json.dumps(asdict(stored), indent=1).encode())
        if not stored.has_all(self._objects.sizes(name)):
            self._objects.delete(f"{name}/{_MANIFEST}")
            raise RepositoryUnavailable(
                f"parts of snapshot {name} were deleted from {self.url} while it was uploaded: try again"
            )
        return stored

    def _complete(self, manifest: Manifest, present: Mapping[str, int]) -> StoredSnapshot | None:
        """The snapshot of the same state that is there already. Raises `SnapshotError` if it is of another log."""
        found = self.get(manifest.name)
        if (found.manifest.cluster, found.manifest.topic_id) != (manifest.cluster, manifest.topic_id):
            raise SnapshotError(
                f"{self.url} has a snapshot {manifest.name} of another log, of cluster {found.manifest.cluster}: use a "
                "repository for each cluster"
            )
        return found if found.has_all(present) else None

    def fetch(self, snapshot: StoredSnapshot, file: Path, on_received: OnTransferred) -> None:
        """Write the copy to a new file, and compare it with its checksums. Raises `SnapshotError`, `FolderUnusable`,
        `StoreFull`.
        """

        def receive(part: str) -> bytes:
            try:
                return self._objects.read(f"{snapshot.name}/{part}", 2 * PART_BYTES)
            except FileNotFoundError:
                raise SnapshotError(
                    f"{part} of snapshot {snapshot.name} is not in {self.url} any more, as it was deleted meanwhile: "
                    "use a newer snapshot"
                ) from None

        environment.check_space(file.parent, snapshot.bytes)
        try:
            receive_parts(snapshot.parts, receive, file, on_received)
        except OSError as error:
            if is_full(error):
                raise StoreFull(f"{file} cannot be written: {error.strerror}. Free some space, and try again") from None
            raise FolderUnusable(f"{file} cannot be written ({error.strerror}): choose another folder") from None

    def verification(self, name: str) -> Verification | FailedVerification | None:
        """The result of the last one. None if there was none."""
        try:
            content = json.loads(self._objects.read(f"{checked_name(name)}/{_VERIFICATION}", MAX_MANIFEST_BYTES))
            if "failure" in content:
                failed = FailedVerification(**content)
                return failed if (type(failed.failed_at_ms), type(failed.failure)) == (int, str) else None
            found = Verification(**content)
        except (FileNotFoundError, ValueError, TypeError, RecursionError):
            return None
        return found if type(found.verified_at_ms) is int else None

    def is_verified(self, name: str) -> bool:
        return isinstance(self.verification(name), Verification)

    def missing_parts(self, name: str) -> list[str]:
        """The parts of a snapshot that are gone, or have another size than when it was published: a cheap check.

        Raises `SnapshotError`, `Unfinished`.
        """
        return self.get(name).missing(self._objects.sizes(name))

    def note_verification(self, name: str, verification: Verification | FailedVerification) -> None:
        """It replaces the former one."""
        self._objects.write(f"{checked_name(name)}/{_VERIFICATION}", json.dumps(asdict(verification)).encode())

    def delete(self, name: str) -> None:
        """The manifest first: what is left after a failure is unfinished."""
        self._objects.delete(f"{checked_name(name)}/{_MANIFEST}")
        self._objects.delete(name)

    def delete_unfinished(self, older_than_s: float, complete: Collection[str] = ()) -> list[str]:
        """Those of uploads in which nothing was written for so long. Returns their names.

        `complete`: those that need not be looked at.
        """
        deleted, limit_s = [], time.time() - older_than_s
        for name in self.names():
            if name in complete:
                continue
            files = self._objects.sizes(name)
            if _MANIFEST in files or any(self._written_s(f"{name}/{it}") > limit_s for it in files):
                continue
            self._objects.delete(name)
            deleted.append(name)
        return deleted

    def _written_s(self, path: str) -> float:
        try:
            return self._objects.modified_s(path)
        except FileNotFoundError:
            return 0.0

    def names(self) -> list[str]:
        """Of the snapshots, complete or not."""
        return [name for name in self._objects.folders() if _NAME.fullmatch(name)]


class Unfinished(SnapshotError):
    """It has no manifest."""


class FolderUnusable(SnapshotError):
    """The folder to which a snapshot is to be restored. This says nothing about the snapshot."""


def checked_name(name: str) -> str:
    """Raises `SnapshotError` if it is not the name of a snapshot."""
    if not _NAME.fullmatch(name):
        raise SnapshotError(
            f"invalid name of a snapshot {name[:80]!r}: expected an offset of 20 digits, a dash and 8 digits of the "
            "chain, see `replicator snapshot list`"
        )
    return name


def _decoded(name: str, encoded: bytes) -> StoredSnapshot:
    """Raises `SnapshotError`."""
    try:
        if len(encoded) > MAX_MANIFEST_BYTES:
            raise ValueError(f"{len(encoded)} bytes")
        content: dict[str, Any] = json.loads(encoded)
        format = content["manifest"]["format"]
        if type(format) is int and format > FORMAT:
            raise SnapshotError(formats.describe_newer(f"snapshot {name}", format, FORMAT, _written_by(content)))
        manifest = Manifest(**content["manifest"])
        parts = tuple(Part(**it) for it in content["parts"])
        stored_bytes = tuple(content.get("stored_bytes", ()))
        _check(name, manifest, parts)
        if any(type(it) is not int for it in stored_bytes) or len(stored_bytes) not in (0, len(parts)):
            raise ValueError("stored_bytes")
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise SnapshotError(f"the manifest of snapshot {name} is damaged ({error!r}): delete the snapshot") from error
    return StoredSnapshot(manifest, parts, stored_bytes)


def _written_by(content: dict[str, Any]) -> str:
    version = content["manifest"].get("written_by", "")
    return version[:_MAX_CHARS] if isinstance(version, str) else ""


def _check(name: str, manifest: Manifest, parts: tuple[Part, ...]) -> None:
    """Raises `ValueError`. What is wrong must not become part of a path, or a size of memory."""
    if manifest.name != name:
        raise ValueError(f"it is of {manifest.name!r}")
    for field in fields(Manifest):
        value: Any = getattr(manifest, field.name)
        kind = {"str": str, "int": int}[str(field.type)]
        if type(value) is not kind or (isinstance(value, int) and value < 0) or len(str(value)) > _MAX_CHARS:
            raise ValueError(f"{field.name} is {str(value)[:80]!r}")
    if manifest.taken_at_ms > _MAX_TIME_MS:
        raise ValueError(f"taken_at_ms is {manifest.taken_at_ms}")
    for digits in (manifest.timeline, manifest.chain):
        bytes.fromhex(digits)
    for part in parts:
        if not _PART.fullmatch(part.name) or type(part.bytes) is not int or not 0 < part.bytes <= PART_BYTES:
            raise ValueError(f"part {part}")
    if not parts or sum(part.bytes for part in parts) != manifest.bytes:
        raise ValueError("the parts have another size than the whole")
