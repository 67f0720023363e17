"""The log as a follower reads it: from Kafka, or as a stream of records from the leader.

    from     to       when
    Kafka    Opened   the leader has agreed to send what follows the store's position
    Opened   Leader   Kafka has returned what it was asked for
    Leader   Kafka    a record is missing or differs, no record or heartbeat has come for `stream_timeout_ms` (or no
                      record for `AWAITED_MS` while a task waits for an offset that is in the log), or the connection is
                      lost

A follower starts with Kafka, and compares its store with the log. It compares them again after each stream, because
Kafka may have lost records meanwhile.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TypeAlias

from replicator.intervals import (
    AWAITED_MS,
    MAX_STREAM_RETRY_MS,
    STREAM_GRACE_MS,
    STREAM_OPEN_TIMEOUT_MS,
    STREAM_RETRY_MS,
)
from replicator.log.port import Entry
from replicator.node.backlog import StreamRequest
from replicator.node.checked_reader import CheckedReader
from replicator.node.client_writes import leading_member
from replicator.node.context import NodeContext
from replicator.node.leader_link import LeaderLink, LinkFailed, RecordStream, StreamSignal
from replicator.position import Author
from replicator.protocol.timing import stream_timeout_ms
from replicator.records.types import Member

logger = logging.getLogger(__name__)


class SourceName(StrEnum):
    KAFKA = "kafka"
    LEADER = "leader"


@dataclass(frozen=True, slots=True)
class FromKafka:
    entries: Sequence[Entry]


@dataclass(frozen=True, slots=True)
class FromLeader:
    entries: Sequence[Entry]  # may be empty
    signal: StreamSignal | None  # after them


@dataclass(frozen=True, slots=True)
class Kafka:
    name = SourceName.KAFKA


@dataclass(frozen=True, slots=True)
class Opened:
    """The stream is used after the next read from Kafka, which may bring records that it has, too."""

    stream: RecordStream
    leader: Author
    name = SourceName.KAFKA


@dataclass(frozen=True, slots=True)
class Leader:
    stream: RecordStream
    leader: Author
    received_ms: float  # when the last records came
    contact_ms: float  # when the last records or heartbeat came
    name = SourceName.LEADER


Source: TypeAlias = Kafka | Opened | Leader


class RecordSource:
    def __init__(self, context: NodeContext, link: LeaderLink) -> None:
        self._context = context
        self._link = link
        self._reader = CheckedReader(context.reader, context.log, context.replica, context.clock)
        self.compared = self._reader.compared  # as `CheckedReader.compared`
        self.source: Source = Kafka()
        self.stream_ended = asyncio.Event()  # set while there is no stream
        self.stream_ended.set()
        self._refusal = ""  # logged last
        self._brought_records = True  # the last stream, if there was one

    @property
    def stream(self) -> RecordStream | None:
        """The one that records come from."""
        return self.source.stream if isinstance(self.source, Leader) else None

    async def next(self) -> FromKafka | FromLeader:
        """For `Replica.read` or `Replica.apply_sent`. Raises as `Reader.next`."""
        while True:
            match self.source:
                case Kafka():
                    return FromKafka(await self._reader.next())
                case Opened(_, leader) if leader != self._context.replica.state.leader:
                    self.close()
                case Opened(stream, leader):
                    now_ms = self._context.clock.elapsed_ms()
                    self.source = Leader(stream, leader, received_ms=now_ms, contact_ms=now_ms)
                    logger.info("receiving records from %s", leader)
                    return FromLeader((), StreamSignal.GETACK)  # for what was read from Kafka
                case Leader() as leader:
                    if (received := await self._receive(leader)) is not None:
                        return received

    async def _receive(self, leader: Leader) -> FromLeader | None:
        clock, timeout_ms = self._context.clock, stream_timeout_ms(self._context.timing)
        left_ms = leader.contact_ms + timeout_ms - clock.elapsed_ms()
        try:
            async with asyncio.timeout(max(STREAM_GRACE_MS, left_ms) / 1000):
                entries, signal = await leader.stream.next()
        except LinkFailed as error:
            self.end_stream(str(error))
            return None
        except TimeoutError:
            self.end_stream(f"no record and no heartbeat for {timeout_ms:.0f} ms")
            return None
        now_ms = clock.elapsed_ms()
        if entries:
            self.source = replace(leader, received_ms=now_ms, contact_ms=now_ms)
            self._brought_records = True
        elif signal is StreamSignal.HEARTBEAT:
            self.source = replace(leader, contact_ms=now_ms)
        return FromLeader(entries, signal)

    def stop_streaming(self) -> None:
        """The leader learns at once that there is no stream, `next` when it receives from it."""
        if not isinstance(self.source, Kafka):
            self.source.stream.close()

    def end_stream(self, why: str) -> None:
        """Read from Kafka again, starting with the comparison of the last accepted record."""
        logger.info("reading the log from Kafka again: %s", why)
        self.close()
        self._reader.compare_again()

    async def keep_streaming(self) -> None:
        """Run until cancelled: ask the leader for its records while they are read from Kafka."""
        await self.compared.wait()
        clock = self._context.clock
        asked, pause_ms, due_ms = None, STREAM_RETRY_MS, 0.0
        while True:
            await self.stream_ended.wait()
            leader, now_ms = self._leader(), clock.elapsed_ms()
            if leader is not None and (leader.author != asked or now_ms >= due_ms):
                useful, self._brought_records = self._brought_records, False
                opened = await self._open(leader)
                again = leader.author == asked and not (opened and useful)
                pause_ms = min(2 * pause_ms, MAX_STREAM_RETRY_MS) if again else STREAM_RETRY_MS
                asked, due_ms = leader.author, now_ms + pause_ms
            await clock.sleep(STREAM_RETRY_MS)  # for whichever leader there is then

    async def end_if_awaited(self) -> None:
        """Run until cancelled: end a stream without records while a task waits for an offset that is in the log."""
        context = self._context
        replica = context.replica
        while True:
            await replica.awaits.wait()
            if replica.awaited is None:
                replica.awaits.clear()
                continue
            await context.clock.sleep(AWAITED_MS)
            match self.source:
                case Leader(stream, _, received_ms, _) if context.clock.elapsed_ms() - received_ms >= AWAITED_MS:
                    if replica.awaited is not None:
                        stream.close()  # `next` notices

    async def _open(self, leader: Member) -> bool:
        """Whether there is a stream now."""
        request = StreamRequest.of(self._context.replica.state, self._context.author)
        try:
            async with asyncio.timeout(STREAM_OPEN_TIMEOUT_MS / 1000):
                stream = await self._link.open_stream(leader, request)
        except (LinkFailed, TimeoutError) as error:
            refusal = f"no records from {leader.author}: {error or f'no answer within {STREAM_OPEN_TIMEOUT_MS} ms'}"
            if refusal != self._refusal:
                logger.info("%s", refusal)
                self._refusal = refusal
            return False
        self.source = Opened(stream, leader.author)
        self.stream_ended.clear()
        return True

    def _leader(self) -> Member | None:
        """The leader, if it is another process, both are registered, and this one does not stop."""
        replica, own = self._context.replica, self._context.author
        member, leader = leading_member(self._context), replica.state.leader
        if member is None or leader == own or member.author != leader or not self._context.roles.eligible:
            return None
        return member if replica.machine.meta.membership.includes(own) else None

    def close(self) -> None:
        """Close the stream."""
        if not isinstance(self.source, Kafka):
            self.source.stream.close()
        self.source = Kafka()
        self.stream_ended.set()
