"""What a publisher reports to its node, as lines of JSON."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from enum import StrEnum


class PublisherState(StrEnum):
    DISABLED = "disabled"  # there is no change stream, or it is disabled
    STANDBY = "standby"  # another node publishes
    BACKFILLING = "backfilling"  # publishes the content of a snapshot
    PUBLISHING = "publishing"
    FAILED = "failed"  # and will be started again


@dataclass(frozen=True, slots=True)
class PublisherReport:
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
