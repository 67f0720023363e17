"""Reads the log from where the store stands, once it is known to be the log that the store has read.

Before the first entry, and after each reconnection, the last accepted record is read again: Kafka may have lost it, and
another may be in its place. `Replica.read` compares them (`protocol.verification`). If the log ends before that record,
Kafka has lost it, or does not show it yet: a new leader of the partition may not know at once what all replicas have.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from replicator.errors import LogTrimmed
from replicator.intervals import END_CHECK_MS, TRUNCATED_MS
from replicator.log.port import Entry, Log, Reader
from replicator.node.clock import Clock
from replicator.node.replica import Replica
from replicator.position import Offset
from replicator.protocol.verification import is_truncated, past_differs, truncated


class CheckedReader:
    def __init__(self, reader: Reader, log: Log, replica: Replica, clock: Clock) -> None:
        self._reader = reader
        self._log = log
        self._replica = replica
        self._clock = clock
        self._leader_changes = reader.leader_changes
        self._comparing = False  # whether the next entry is to be the last one that was accepted
        self.compared = asyncio.Event()  # set once this reader knows that the log holds what the store holds
        self.compare_again()

    async def next(self) -> Sequence[Entry]:
        """The entries for `Replica.read`, which must read them before the next call. Raises as `Reader.next`."""
        while True:
            if not self._comparing:
                self.compared.set()
                self._replica.compared.set()
            try:
                entries = await (self._next_or_end() if self._comparing else self._reader.next())
            except LogTrimmed:
                if not self._comparing:
                    raise
                self._go_on()  # the store is a snapshot's, and what it holds was deleted from the log
                continue
            if self._comparing:
                self._leader_changes = self._reader.leader_changes
                self._comparing = False
                offset = self._replica.state.leader_offset
                if entries[0].offset != offset:
                    raise past_differs(offset)
                return entries
            if self._leader_changes == self._reader.leader_changes:
                return entries
            self._leader_changes = self._reader.leader_changes
            self.compare_again()

    async def _next_or_end(self) -> Sequence[Entry]:
        """Also raises `LogDamage` if the log ends before what this node has read, for `TRUNCATED_MS`."""
        since_ms: float | None = None
        while True:
            try:
                async with asyncio.timeout(END_CHECK_MS / 1000):
                    return await self._reader.next()
            except TimeoutError:
                state, now_ms, end = self._replica.state, self._clock.elapsed_ms(), await self._log.end()
            if not is_truncated(state, end):
                since_ms = None
            elif since_ms is None:
                since_ms = now_ms
            elif now_ms - since_ms >= TRUNCATED_MS:
                raise truncated(state, end)

    def compare_again(self) -> None:
        """Read from the last record that was accepted on, wherever it came from."""
        state = self._replica.state
        if not state.timeline:
            self._go_on()
            return
        self._comparing = True
        self._reader.seek(state.leader_offset)

    def _go_on(self) -> None:
        self._comparing = False
        self._reader.seek(Offset(self._replica.state.offset + 1))
