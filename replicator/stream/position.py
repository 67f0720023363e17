"""Where a consumer of the change stream reads on."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from replicator.errors import ConfigError
from replicator.stream.change import Position

MAX_OFFSET = (1 << 63) - 1
_SHOWN = 200  # characters of what is not a position


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
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise ConfigError(f"invalid position of a change stream: {text[:_SHOWN]!r} ({error!r})") from error

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> StreamPosition:
        """Raises `KeyError`, `TypeError` or `ValueError`."""
        topic_id, offsets = fields["topic_id"], fields["next_offsets"]
        if not isinstance(topic_id, str) or not isinstance(offsets, list | tuple) or not all(map(_is_offset, offsets)):
            raise ValueError("expected a topic_id, and next_offsets")
        return cls(topic_id, tuple(offsets))


def _is_offset(value: object) -> bool:
    return type(value) is int and 0 <= value <= MAX_OFFSET


Start = StreamEnd | StreamPosition | Position | datetime
"""The first or the next message; where a consumer was; the first change from a position in the log, or a time, on."""
