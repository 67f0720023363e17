"""What the node asks of a log, whatever carries it.

`Log` is an append-only sequence of values with offsets; `Acks` is a lossy-tolerant broadcast of small values.
Adapters: `log.kafka` (the real one) and `log.memory` (tests and the simulator). Both pass `tests/log_contract.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from replicator.errors import Definite, ReplicatorError
from replicator.position import Offset


class Entry(NamedTuple):
    offset: Offset
    payload: bytes


class AppendRefused(Definite):
    """The log said no: nothing of this append is in it, and nothing will be."""


class AppendOutcomeUnknown(ReplicatorError):
    """No answer, or one that proves nothing: the append may be in the log, or may still arrive."""


class Reader(Protocol):
    """A cursor over the log. One task at a time calls `next`, which may be cancelled without losing entries."""

    async def next(self) -> Sequence[Entry]:
        """At least one entry, in offset order, waiting for it if need be.

        Offsets may have holes. Raises `LogTrimmed` (the offset wanted is gone), `LogDamage` (the topic is not the one
        that was opened), `BrokerUnavailable` (nothing was skipped: call again).
        """
        ...

    def seek(self, offset: Offset) -> None:
        """The next entry returned is the first one at or above `offset`."""
        ...

    async def close(self) -> None: ...


class Log(Protocol):
    @property
    def identity(self) -> str:
        """Id of this very topic: another one after it was deleted and made anew."""
        ...

    async def append(self, payloads: Sequence[bytes]) -> Offset:
        """Append all payloads atomically and contiguously; the offset of the first.

        Returns when they are durable by the log's own standard (Kafka: acks=all). Raises `AppendRefused` (definite)
        or `AppendOutcomeUnknown` (indefinite). If cancelled, the append is in doubt.
        """
        ...

    def reader(self, start: Offset) -> Reader: ...

    async def start(self) -> Offset:
        """Offset of the first entry still there. Raises `BrokerUnavailable`."""
        ...

    async def end(self) -> Offset:
        """Offset that the next entry will get. Every append that had succeeded before the call lies below it.

        Raises `BrokerUnavailable`.
        """
        ...

    async def close(self) -> None: ...


class Acks(Protocol):
    """The topic `<cluster>.acks`: who has applied how far. A lost ack is made good by the next one."""

    async def send(self, payload: bytes) -> None:
        """Raises `BrokerUnavailable`."""
        ...

    async def receive(self) -> Sequence[bytes]:
        """At least one ack that was sent after this channel was opened. Raises `BrokerUnavailable`."""
        ...

    async def skip(self) -> None:
        """Pass over what was sent before this call. Not while `receive` is waiting. Raises `BrokerUnavailable`."""
        ...

    async def close(self) -> None: ...
