"""What the servers of a node know of the change stream (`replicator.stream`): a port, and the report of a publisher."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any, Protocol


class PublisherState(StrEnum):
    DISABLED = "disabled"  # there is no change stream, or it is disabled
    STANDBY = "standby"  # another node publishes
    BACKFILLING = "backfilling"  # publishes the content of a snapshot
    PUBLISHING = "publishing"
    FAILED = "failed"  # and will be started again


@dataclass(frozen=True, slots=True)
class PublisherReport:
    """Of the publisher of one node, which sends it as a line of JSON."""

    state: PublisherState
    offset: int = -1  # of the last entry of the log that is published
    changes: int = 0  # published so far
    changes_per_s: float = 0.0
    lag_records: int = 0  # entries of the log that are not published yet
    lag_ms: float = 0.0  # age of the last record published, if there are later ones
    trouble: str = ""

    @property
    def publishes(self) -> bool:
        return self.state in (PublisherState.BACKFILLING, PublisherState.PUBLISHING)

    def encode(self) -> bytes:
        return json.dumps(asdict(self)).encode() + b"\n"

    @classmethod
    def decode(cls, line: bytes) -> PublisherReport:
        """Raises `ValueError`, `TypeError` or `KeyError`."""
        fields = json.loads(line)
        return cls(state=PublisherState(fields.pop("state")), **fields)


NO_PUBLISHER = PublisherReport(PublisherState.DISABLED)


class ChangeStreamControl(Protocol):
    """Raises `BrokerUnavailable` in all methods, and `ConfigError` in those that change something."""

    @property
    def report(self) -> PublisherReport:
        """The last one of this node's publisher."""
        ...

    async def describe(self) -> dict[str, Any]:
        """The topic, and as JSON the settings and the progress, both None if there is no change stream."""
        ...

    async def enable(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """Create the change stream with these options, or go on with one that is disabled. Returns as `describe`.

        Raises `BadRequest`, `SnapshotError`, `Loading`.
        """
        ...

    async def disable(self) -> dict[str, Any]: ...

    async def reset(self) -> None:
        """Delete the changes, and the state of the stream."""
        ...
