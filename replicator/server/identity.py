"""The identity of a process, as `GET /status` reports it."""

from __future__ import annotations

from dataclasses import dataclass

from replicator.position import Author


@dataclass(frozen=True, slots=True)
class Identity:
    cluster: str
    author: Author

    @property
    def incarnation(self) -> str:
        return encode_incarnation(self.author.incarnation)


def encode_incarnation(incarnation: int) -> str:
    """Text, because 63 bits do not fit into the numbers of all JSON parsers."""
    return f"{incarnation:016x}"


def decode_incarnation(text: str) -> int:
    """Raises `ValueError`."""
    return int(text, 16)
