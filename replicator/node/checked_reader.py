"""Reads the log from where the store stands, once it is known to be the log that the store has read.

Before the first entry, and after each reconnection, the last accepted record is read again: Kafka may have lost it, and
another may be in its place. `Replica.read` compares them (`protocol.verification`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from replicator.errors import LogTrimmed
from replicator.log.port import Entry, Reader
from replicator.node.replica import Replica
from replicator.position import Offset
from replicator.protocol.verification import past_differs


class CheckedReader:
    def __init__(self, reader: Reader, replica: Replica) -> None:
        self._reader = reader
        self._replica = replica
        self._connection = reader.reconnections
        self._comparing = False  # whether the next entry is to be the last one that was accepted
        self.compared = asyncio.Event()  # set once the store is known to hold what the log holds
        self._go_back()

    async def next(self) -> Sequence[Entry]:
        """For `Replica.read`, to be called before the next call. Raises as `Reader.next`."""
        while True:
            if not self._comparing:
                self.compared.set()
            try:
                entries = await self._reader.next()
            except LogTrimmed:
                if not self._comparing:
                    raise
                self._go_on()  # the store is a snapshot's, and what it holds was deleted from the log
                continue
            if self._comparing:
                self._connection = self._reader.reconnections
                self._comparing = False
                offset = self._replica.state.leader_offset
                if entries[0].offset != offset:
                    raise past_differs(offset)
                return entries
            if self._connection == self._reader.reconnections:
                return entries
            self._connection = self._reader.reconnections
            self._go_back()

    def _go_back(self) -> None:
        state = self._replica.state
        if not state.timeline:
            self._go_on()
            return
        self._comparing = True
        self._reader.seek(state.leader_offset)

    def _go_on(self) -> None:
        self._comparing = False
        self._reader.seek(Offset(self._replica.state.offset + 1))
