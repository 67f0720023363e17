"""The interface between a node and its log.

`Log` is an append-only sequence of values with offsets. `Acks` is a broadcast of small values that may be lost.
`AppliedOffsets` is for monitoring only. Adapters: `log.kafka`, and `log.memory` for tests and the simulator. Both pass
the tests in `tests/log_contract.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from replicator.errors import Definite, ReplicatorError
from replicator.position import Offset


class Entry(NamedTuple):
    offset: Offset
    payload: bytes


class LogExtent(NamedTuple):
    start: Offset  # of the first entry that was not deleted
    size_bytes: int | None  # of one copy; None: this client is not authorized to read it


class AppendRefused(Definite):
    """The log refused the append: none of it is in the log, or ever will be."""


class AppendOutcomeUnknown(ReplicatorError):
    """No answer, or one that leaves the outcome open: the append may be in the log, or may still get there."""


class OffsetCommitRefused(ReplicatorError):
    """This node is not authorized to commit offsets. The message names the permission."""


class Reader(Protocol):
    """Reads the log in order. One task at a time may call `next`; cancelling it loses no entries."""

    async def next(self) -> Sequence[Entry]:
        """Wait for the next entries: at least one, in offset order.

        Offsets may have gaps. Raises `LogTrimmed` (the next offset was deleted), `LogDamage` (the topic was recreated,
        truncated or corrupted), `BrokerUnavailable` (no entry was skipped: call again).
        """
        ...

    @property
    def leader_changes(self) -> int:
        """How often the log is served by another leader than before, up to the last entries returned.

        Once it has changed, the caller compares the last entry that it has applied with the log: the new leader may
        lack entries that the one before had. Neither `seek` nor a connection to the same leader changes it.
        """
        ...

    def seek(self, offset: Offset) -> None:
        """The next entry returned is the first one at or above `offset`."""
        ...

    async def close(self) -> None: ...


class Log(Protocol):
    @property
    def identity(self) -> str:
        """The id of the topic. It changes if the topic is deleted and recreated."""
        ...

    async def append(self, payloads: Sequence[bytes]) -> Offset:
        """Append all payloads atomically, at consecutive offsets. Returns the offset of the first.

        Returns once they are durable by the standard of the log (Kafka: acks=all). Raises `AppendRefused` (definite)
        or `AppendOutcomeUnknown` (indefinite), or `LogDamage` (nothing was sent). If the call is cancelled, the outcome
        is unknown.
        """
        ...

    @property
    def leader_changes(self) -> int:
        """How often an append was sent to another leader than the one before, up to the last append that returned.

        Once it has changed, the offset of an append does not show what precedes it, as for `Reader.leader_changes`.
        """
        ...

    def reader(self, start: Offset) -> Reader: ...

    async def start(self) -> Offset:
        """Offset of the first entry that was not deleted. Raises `BrokerUnavailable`."""
        ...

    async def end(self) -> Offset:
        """Offset of the next append. It is above every append that had succeeded before the call.

        Raises `BrokerUnavailable`.
        """
        ...

    async def extent(self) -> LogExtent:
        """For monitoring: slower than the calls above. Raises `BrokerUnavailable`."""
        ...

    async def close(self) -> None: ...


class Acks(Protocol):
    """The topic `<cluster>.acks`: how far each replica has applied the log. The next ack makes up for a lost one."""

    async def send(self, payload: bytes) -> None:
        """Raises `BrokerUnavailable`."""
        ...

    async def receive(self) -> Sequence[bytes]:
        """Wait for at least one ack that was sent after this channel was opened. Raises `BrokerUnavailable`."""
        ...

    async def skip(self) -> None:
        """Skip the acks that were sent before this call. Not during `receive`. Raises `BrokerUnavailable`."""
        ...

    async def close(self) -> None: ...


class AppliedOffsets(Protocol):
    """How far this node has applied the log, for tools that monitor the lag. No node reads it."""

    async def commit(self, next_offset: Offset) -> None:
        """All entries below `next_offset` are applied. Raises `BrokerUnavailable`, `OffsetCommitRefused`."""
        ...

    def close(self) -> None: ...
