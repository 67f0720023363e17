"""What the readers of a change stream have in common, without I/O."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import NamedTuple

from replicator.errors import ConfigError, LogDamage
from replicator.stream.change import Change
from replicator.stream.consumer import foreign_error
from replicator.stream.envelope import NotAChange
from replicator.stream.opening import OpenedStream
from replicator.stream.position import StreamPosition


class _Fetched(NamedTuple):
    partition: int
    offset: int
    change: Change | LogDamage  # the latter is raised, and stays in its place


class ReadAhead:
    """Changes that were fetched and not taken yet, and the position after those that were taken."""

    def __init__(self, opened: OpenedStream, *, follow: bool) -> None:
        """`follow` False: up to the end of the topic when it was opened."""
        self._topic = opened.topic
        self._settings = opened.settings
        self._format = opened.settings.envelope_format()
        self._follow = follow
        self._ends = opened.ends
        self._ready: deque[_Fetched] = deque()
        self._fetched = list(opened.start.next_offsets)
        self._may_begin_inside = not opened.is_exact  # of a transaction, whose first changes were deleted
        self._next = list(self._fetched)  # of each partition: at most its offset in `_fetched`

    def __len__(self) -> int:
        return len(self._ready)

    @property
    def position(self) -> StreamPosition:
        return StreamPosition(self._settings.topic_id, tuple(self._next))

    @property
    def has_ended(self) -> bool:
        """Everything up to the end was taken, and there is an end."""
        return (
            not self._follow
            and not self._ready
            and all(offset >= end for offset, end in zip(self._fetched, self._ends, strict=True))
        )

    def add(self, partition: int, offset: int, value: bytes | None) -> None:
        """The next message of a partition; a tombstone has no value."""
        if not self._follow and offset >= self._ends[partition]:
            self.passed(partition, offset)
            return
        if value is not None:
            change: Change | LogDamage
            try:
                change = self._format.decode(value)
            except NotAChange as error:
                change = foreign_error(self._topic, partition, offset, error)
            self._ready.append(_Fetched(partition, offset, change))
        self.passed(partition, offset + 1)

    def passed(self, partition: int, offset: int) -> None:
        """There are no more messages before this offset: those that were read, and markers of transactions."""
        if not self._follow:
            offset = min(offset, self._ends[partition])
        self._fetched[partition] = max(self._fetched[partition], offset)
        if not self._ready:
            self._next[partition] = self._fetched[partition]

    def take(self, limit: int) -> list[Change]:
        """The next changes, at most `limit`. Raises `LogDamage`."""
        taken: list[Change] = []
        while self._ready and len(taken) < limit:
            partition, offset, change = self._ready[0]
            if isinstance(change, LogDamage):
                if taken:
                    break
                raise change
            self._ready.popleft()
            self._may_begin_inside = False
            self._next[partition] = offset + 1
            taken.append(change)
        if not self._ready:
            self._next[:] = self._fetched
        return taken

    def take_transaction(self) -> list[Change] | None:
        """The changes of the next whole transaction, if all were fetched.

        Raises `LogDamage`, and `ConfigError` if the position is inside of a transaction.
        """
        if not self._ready:
            return None
        first = self._ready[0].change
        if isinstance(first, LogDamage):
            raise first
        block = first.transaction
        if block is None:
            return self.take(1)
        left = block.changes - block.order + 1
        if len(self._ready) < left:
            return None
        if block.order == 1:
            return self.take(left)
        if not self._may_begin_inside:
            raise ConfigError(
                f"the position {first.position} is inside of a transaction: read single changes until one has "
                "`ends_transaction`, or start from the first change of the transaction"
            )
        self.take(left)
        return self.take_transaction()

    def check_transactions(self) -> None:
        """Raises `ConfigError` if transactions cannot be told."""
        if len(self._next) > 1:
            raise ConfigError(
                f"{self._topic} has {len(self._next)} partitions, so the changes of a transaction may be in several: "
                "read the changes one by one, or enable the stream with one partition"
            )
        if self._settings.compacted:
            raise ConfigError(f"{self._topic} is compacted, so it does not keep whole transactions: read the changes")

    def lag(self, ends: Iterable[int]) -> int:
        """Messages that were not taken, up to the ends of the partitions as far as they are known."""
        if not self._follow:
            ends = self._ends
        known = (max(it) for it in zip(ends, self._ends, strict=True))
        return sum(max(0, end - offset) for end, offset in zip(known, self._next, strict=True))
