"""What was appended to the log at once, as nodes pass it on to each other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Self

from replicator.position import Offset, Seq

RECORD_OVERHEAD_BYTES = 500
"""What a record takes in memory besides its payload."""


class RecordEnd(NamedTuple):
    """The state of the log after a record."""

    seq: Seq
    chain: bytes


@dataclass(frozen=True, slots=True, eq=False)  # compared by identity: it is encoded once for all followers
class CommittedBatch:
    """Records with consecutive offsets."""

    base: Offset  # of the first record
    payloads: Sequence[bytes]
    ends: Sequence[RecordEnd]  # of each record

    @property
    def size_bytes(self) -> int:
        """Of the payloads, and of what else is kept in memory for each."""
        return sum(map(len, self.payloads)) + RECORD_OVERHEAD_BYTES * len(self.payloads)

    def after(self, seq: Seq) -> Self | None:
        """What follows that record; None: nothing does."""
        known = sum(end.seq <= seq for end in self.ends)
        if known == len(self.ends):
            return None
        if known == 0:
            return self
        return type(self)(Offset(self.base + known), self.payloads[known:], self.ends[known:])
