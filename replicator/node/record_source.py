"""The log as a follower reads it: from Kafka, or as a stream of records from its upstream, the leader or a follower.

    from       to         when
    Kafka      Opened     an upstream has agreed to send what follows the store's position
    Opened     Streaming  Kafka has returned what it was asked for
    Streaming  Streaming  a preferred upstream has agreed to send what follows
    Streaming  Kafka      a record is missing or differs, no record or heartbeat has come for `stream_timeout_ms` (or no
                          record for `AWAITED_MS` while a task waits for an offset that is in the log), the connection
                          is lost, the upstream falls behind, or this process is to fetch what follows (`gossip`)

A follower starts with Kafka, and compares its store with the log. It compares them again after each stream, because
Kafka may have lost records meanwhile.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TypeAlias

from replicator.errors import BrokerUnavailable
from replicator.intervals import (
    AWAITED_MS,
    BEHIND_CHECK_MS,
    STREAM_GRACE_MS,
    STREAM_OPEN_TIMEOUT_MS,
    STREAM_RETRY_MS,
)
from replicator.log.port import Entry
from replicator.node.backlog import ReplicationBacklog, StreamRequest
from replicator.node.checked_reader import CheckedReader
from replicator.node.context import NodeContext
from replicator.node.node_link import LinkFailed, NodeLink, RecordStream, StreamSignal
from replicator.node.upstream_choice import UpstreamChoice
from replicator.position import GOSSIP, Author
from replicator.protocol.timing import stream_timeout_ms
from replicator.protocol.upstream import Distance, falls_behind, upstreams
from replicator.records.types import Member

logger = logging.getLogger(__name__)


class SourceName(StrEnum):
    KAFKA = "kafka"
    LEADER = "leader"
    FOLLOWER = "follower"


@dataclass(frozen=True, slots=True)
class FromKafka:
    entries: Sequence[Entry]


@dataclass(frozen=True, slots=True)
class FromStream:
    entries: Sequence[Entry]  # may be empty
    signal: StreamSignal | None  # after them


@dataclass(frozen=True, slots=True)
class Kafka:
    pass


@dataclass(frozen=True, slots=True)
class Opened:
    """The stream is used after the next read from Kafka, which may bring records that it has, too."""

    stream: RecordStream
    upstream: Author
    leader: Author  # when the stream began


@dataclass(frozen=True, slots=True)
class Streaming:
    stream: RecordStream
    upstream: Author
    received_ms: float  # when the last records came
    contact_ms: float  # when the last records or heartbeat came


Source: TypeAlias = Kafka | Opened | Streaming


class RecordSource:
    def __init__(self, context: NodeContext, link: NodeLink, backlog: ReplicationBacklog) -> None:
        """`backlog`: the processes that receive records from it send none to this one."""
        self._context = context
        self._link = link
        self._backlog = backlog
        self._reader = CheckedReader(context.reader, context.log, context.replica, context.clock)
        self.compared = self._reader.compared  # as `CheckedReader.compared`
        self.source: Source = Kafka()
        self.stream_ended = asyncio.Event()  # set while there is no stream
        self.stream_ended.set()
        self._choice = UpstreamChoice()
        self._range = 0  # of the next record
        self._range_began = asyncio.Event()
        self._refusal = ""  # logged last

    @property
    def stream(self) -> RecordStream | None:
        """The one that records come from."""
        return self.source.stream if isinstance(self.source, Streaming) else None

    @property
    def upstream(self) -> Author | None:
        """The process that sends records here, or has agreed to."""
        return None if isinstance(self.source, Kafka) else self.source.upstream

    @property
    def name(self) -> SourceName:
        if not isinstance(self.source, Streaming):
            return SourceName.KAFKA
        leads = self.source.upstream == self._context.replica.state.leader
        return SourceName.LEADER if leads else SourceName.FOLLOWER

    async def next(self) -> FromKafka | FromStream:
        """For `Replica.read` or `Replica.apply_sent`. Raises as `Reader.next`."""
        range = self._context.upstream.range_of(self._context.replica.state.seq)
        if range != self._range:
            self._range = range
            self._range_began.set()
        while True:
            match self.source:
                case Kafka():
                    return FromKafka(await self._reader.next())
                case Opened(_, _, leader) if leader != self._context.replica.state.leader:
                    self.close()
                case Opened(stream, upstream, _):
                    self._stream_from(stream, upstream)
                    return FromStream((), StreamSignal.GETACK)  # for what was read from Kafka
                case Streaming() as source:
                    if (received := await self._receive(source)) is not None:
                        return received

    def _stream_from(self, stream: RecordStream, upstream: Author) -> None:
        now_ms = self._context.clock.elapsed_ms()
        self.source = Streaming(stream, upstream, received_ms=now_ms, contact_ms=now_ms)
        logger.info("receiving records from %s", upstream)

    async def _receive(self, source: Streaming) -> FromStream | None:
        clock, timeout_ms = self._context.clock, stream_timeout_ms(self._context.timing)
        left_ms = source.contact_ms + timeout_ms - clock.elapsed_ms()
        try:
            async with asyncio.timeout(max(STREAM_GRACE_MS, left_ms) / 1000):
                entries, signal = await source.stream.next()
        except (LinkFailed, TimeoutError) as error:
            if self.source is source:
                self.end_stream(str(error) or f"no record and no heartbeat for {timeout_ms:.0f} ms")
            return None
        if self.source is not source:
            return None  # another stream has replaced it, and sends the same records
        now_ms = clock.elapsed_ms()
        if entries:
            self.source = replace(source, received_ms=now_ms, contact_ms=now_ms)
            self._choice.brought_records(source.upstream)
        elif signal is StreamSignal.HEARTBEAT:
            self.source = replace(source, contact_ms=now_ms)
        return FromStream(entries, signal)

    def stop_streaming(self) -> None:
        """The upstream learns at once that there is no stream, `next` when it receives from it."""
        if not isinstance(self.source, Kafka):
            self.source.stream.close()

    def end_stream(self, why: str) -> None:
        """Read from Kafka again, starting with the comparison of the last accepted record."""
        logger.info("reading the log from Kafka again: %s", why)
        self.close()
        self._reader.compare_again()

    async def keep_streaming(self) -> None:
        """Run until cancelled: ask for a stream while there is none, or none from the upstream that is preferred."""
        await self.compared.wait()
        context, clock = self._context, self._context.clock
        while True:
            state, membership = context.replica.state, context.replica.machine.meta.membership
            leader, now_ms = state.leader, clock.elapsed_ms()
            stops = membership.includes(context.author) and not context.roles.eligible
            self._range_began.clear()
            if leader is not None and not stops and not isinstance(self.source, Opened):
                members = upstreams(context.upstream, membership, leader, context.author, state.seq)
                if members is None:
                    self._fetch_range()
                elif (upstream := self._preferred(members, now_ms)) is not None:
                    self._choice.asked(upstream.author, now_ms)
                    await self._open(upstream, leader)
            await self._until_retry()

    def _preferred(self, members: Sequence[Member], now_ms: float) -> Member | None:
        receivers = self._backlog.receivers
        others = [member for member in members if member.author not in receivers]
        return self._choice.next(others, self.upstream, now_ms)

    def _fetch_range(self) -> None:
        if isinstance(self.source, Streaming):
            self.end_stream("this node fetches the next range")

    async def _until_retry(self) -> None:
        if self._context.upstream.wanted != GOSSIP:
            await self._context.clock.sleep(STREAM_RETRY_MS)
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(STREAM_RETRY_MS / 1000):
                await self._range_began.wait()

    async def end_if_awaited(self) -> None:
        """Run until cancelled: end a stream without records while a task waits for an offset that is in the log.

        A process that is not registered, because it catches up, serves no reads that would have to wait.
        """
        context = self._context
        replica = context.replica
        while True:
            await replica.awaits.wait()
            if replica.awaited is None:
                replica.awaits.clear()
                continue
            await context.clock.sleep(AWAITED_MS)
            match self.source:
                case Streaming(stream, _, received_ms, _) if context.clock.elapsed_ms() - received_ms >= AWAITED_MS:
                    if replica.awaited is not None and replica.machine.meta.membership.includes(context.author):
                        stream.close()  # `next` notices

    async def end_if_behind(self) -> None:
        """Run until cancelled: end a stream from another follower if that falls behind (`falls_behind`)."""
        context, clock = self._context, self._context.clock
        before: tuple[RecordStream, Distance] | None = None
        while True:
            await clock.sleep(BEHIND_CHECK_MS)
            match self.source:
                case Streaming(stream, upstream, _, _) if upstream != context.replica.state.leader:
                    pass
                case _:
                    before = None
                    continue
            try:
                end = await context.log.end()
            except BrokerUnavailable:
                continue
            distance = Distance(context.replica.state.offset, end)
            if before is not None and before[0] is stream and falls_behind(before[1], distance):
                logger.info("%s sends less than is appended: %d records are missing", upstream, distance.entries)
                self._choice.fell_behind(upstream, clock.elapsed_ms())
                stream.close()  # `next` notices
            before = stream, distance

    async def _open(self, upstream: Member, leader: Author) -> None:
        request = StreamRequest.of(self._context.replica.state, self._context.author)
        try:
            async with asyncio.timeout(STREAM_OPEN_TIMEOUT_MS / 1000):
                stream = await self._link.open_stream(upstream, request)
        except (LinkFailed, TimeoutError) as error:
            why = str(error) or f"no answer within {STREAM_OPEN_TIMEOUT_MS} ms"
            refusal = f"no records from {upstream.author}: {why}"
            if refusal != self._refusal:
                logger.info("%s", refusal)
                self._refusal = refusal
            return
        match self.source:
            case Streaming(former, _, _, _) if leader == self._context.replica.state.leader:
                self._stream_from(stream, upstream.author)
                former.close()
            case Streaming():
                stream.close()
            case _:
                self.source = Opened(stream, upstream.author, leader)
                self.stream_ended.clear()

    def close(self) -> None:
        """Close the stream."""
        if not isinstance(self.source, Kafka):
            self.source.stream.close()
        self.source = Kafka()
        self.stream_ended.set()
