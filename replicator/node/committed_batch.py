"""What was appended to the log at once, as nodes pass it on to each other."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Self

from replicator.position import Offset, Seq

RECORD_OVERHEAD_BYTES = 500
"""What a record takes in memory besides its payload."""

JOINED_BYTES = 256 << 10


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

    @property
    def next_offset(self) -> Offset:
        """After the last record."""
        return Offset(self.base + len(self.payloads))

    def after(self, seq: Seq) -> Self | None:
        """What follows that record; None: nothing does."""
        known = sum(end.seq <= seq for end in self.ends)
        if known == len(self.ends):
            return None
        if known == 0:
            return self
        return type(self)(Offset(self.base + known), self.payloads[known:], self.ends[known:])


def joined(batches: Sequence[CommittedBatch]) -> Iterator[CommittedBatch]:
    """The same records in fewer batches: each costs time to send. None is made larger than `JOINED_BYTES`."""
    first = 0
    while first < len(batches):
        size, end = batches[first].size_bytes, first + 1
        while end < len(batches) and batches[end].base == batches[end - 1].next_offset:
            size += batches[end].size_bytes
            if size > JOINED_BYTES:
                break
            end += 1
        part = batches[first:end]
        yield part[0] if len(part) == 1 else _as_one(part)
        first = end


def _as_one(batches: Sequence[CommittedBatch]) -> CommittedBatch:
    payloads = [payload for batch in batches for payload in batch.payloads]
    return CommittedBatch(batches[0].base, payloads, [end for batch in batches for end in batch.ends])
