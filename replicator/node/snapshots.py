"""What the servers of a node know of its snapshots (`replicator.snapshots`): a port, and a report."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Protocol

from replicator.position import Offset
from replicator.store.snapshot import Manifest


@dataclass(frozen=True, slots=True)
class ListedSnapshot:
    manifest: Manifest
    verified_at_ms: int | None  # since 1970; None: it is not verified
    failure: str = ""  # of its last verification; empty: it has not failed

    def as_json(self) -> dict[str, Any]:
        """Its fields, beside those of the manifest: in lists of commands and of HTTP."""
        return {**asdict(self.manifest), "verified_at_ms": self.verified_at_ms, "failure": self.failure}


@dataclass(frozen=True, slots=True)
class SnapshotProgress:
    """Of a snapshot that is taken or verified now."""

    doing: str  # such as: uploading, MiB
    done: int = 0
    total: int = 0  # 0: not known


@dataclass(frozen=True, slots=True)
class SnapshotReport:
    """As of the last look at the repository."""

    snapshots: tuple[ListedSnapshot, ...] | None = None  # as `listed`; None: it has not answered yet
    trouble: str = (
        ""  # why the last attempt to take, verify, delete or trim has failed, or what is wrong with snapshots
    )
    needed_from: Offset | None = None  # the log may be deleted below; None: this node does not trim it
    needed_by: str = ""  # by what the log is needed from that offset on


NOTHING_KNOWN = SnapshotReport()


class SnapshotControl(Protocol):
    """All methods raise `RepositoryUnavailable`, `ConfigError`, `SnapshotError`."""

    @property
    def repository(self) -> str:
        """Its URL, without a password."""
        ...

    @property
    def report(self) -> SnapshotReport: ...

    @property
    def progress(self) -> SnapshotProgress | None:
        """None: nothing is taken or verified now."""
        ...

    async def take(self) -> Manifest:
        """Take one of the store of this node, and return when it is in the repository. Raises `StoreFull`."""
        ...

    async def listed(self) -> list[ListedSnapshot]:
        """Those of the cluster of this node first; of each cluster its present log first; of a log the highest offset
        first.
        """
        ...
