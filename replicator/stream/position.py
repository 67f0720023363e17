"""Where a consumer of the change stream reads on."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from replicator.errors import ConfigError
from replicator.stream.change import Position


class StreamEnd(StrEnum):
    EARLIEST = "earliest"
    LATEST = "latest"


@dataclass(frozen=True, slots=True)
class StreamPosition:
    """The next message of each partition. It is what a consumer stores together with its results.

    Positions of one stream can be compared; after `replicator stream reset`, the stream is another one.
    """

    topic_id: str
    next_offsets: tuple[int, ...]  # in the topic of changes, by partition

    def is_behind(self, other: StreamPosition) -> bool:
        """Whether it is before the other one in some partition."""
        return any(mine < theirs for mine, theirs in zip(self.next_offsets, other.next_offsets, strict=True))

    def encode(self) -> str:
        return json.dumps(self.as_json())

    @classmethod
    def decode(cls, text: str) -> StreamPosition:
        """Raises `ConfigError`."""
        try:
            return cls.from_json(json.loads(text))
        except (ValueError, KeyError, TypeError) as error:
            raise ConfigError(f"invalid position of a change stream: {error!r}") from error

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> StreamPosition:
        """Raises `KeyError`, `TypeError` or `ValueError`."""
        return cls(str(fields["topic_id"]), tuple(int(offset) for offset in fields["next_offsets"]))


Start = StreamEnd | StreamPosition | Position | datetime
"""The first or the next message; where a consumer was; the first change from a position in the log, or a time, on."""
