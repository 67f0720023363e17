"""Appends one batch at a time. An append has one of four outcomes:

committed   the broker answered with the expected offset: no other node has appended, and the batch is accepted
misplaced   it answered with a later one: other nodes have appended before it; or the log has another leader, which may
            lack records that were read: the log decides whether it is accepted
refused     none of it is in the log, or ever will be
unknown     no answer, or one that leaves the outcome open
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum, auto

from replicator.errors import LogTruncated
from replicator.log.port import AppendOutcomeUnknown, AppendRefused, Log
from replicator.node.clock import Clock
from replicator.position import Offset


@dataclass(frozen=True, slots=True)
class Committed:
    sent_ms: float


@dataclass(frozen=True, slots=True)
class Misplaced:
    last: Offset  # where the batch ends
    sent_ms: float


@dataclass(frozen=True, slots=True)
class Refused:
    error: AppendRefused


@dataclass(frozen=True, slots=True)
class OutcomeUnknown:
    error: AppendOutcomeUnknown


AppendOutcome = Committed | Misplaced | Refused | OutcomeUnknown


class AppendState(Enum):
    IDLE = auto()
    IN_FLIGHT = auto()  # also after an append whose outcome stayed unknown


class Appender:
    def __init__(self, log: Log, clock: Clock) -> None:
        self._log = log
        self._clock = clock
        self._leader_changes = log.leader_changes
        self.state = AppendState.IDLE
        self.sent_ms = clock.elapsed_ms()  # when the last batch was sent
        self.last = Offset(-1)  # where the last misplaced batch ends

    async def append(self, payloads: Sequence[bytes], expected: Offset) -> AppendOutcome:
        """`expected`: the offset of the first payload. Raises `LogTruncated`. If cancelled, the outcome is unknown."""
        self.sent_ms = sent_ms = self._clock.elapsed_ms()
        self.state = AppendState.IN_FLIGHT
        try:
            base = await self._log.append(payloads)
        except AppendRefused as error:
            self.state = AppendState.IDLE
            return Refused(error)
        except AppendOutcomeUnknown as error:
            return OutcomeUnknown(error)
        self.state = AppendState.IDLE
        if base == expected and self._log.leader_changes == self._leader_changes:
            return Committed(sent_ms)
        if base < expected:
            raise LogTruncated(
                f"the log gave offset {base} to a record that should follow offset {expected - 1}: it was truncated. "
                "Restore the broker's data, or the cluster from a snapshot"
            )
        self.last = Offset(base + len(payloads) - 1)
        return Misplaced(self.last, sent_ms)
