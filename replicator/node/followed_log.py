"""The log as a follower reads it: from the leader over a link, or from Kafka.

    source   then     when
    Kafka    leader   the leader has agreed to send what follows the store's position, and Kafka has returned something
    leader   Kafka    a record is missing or differs, nothing arrives for `link_silence_ms`, or the link is lost

Records are read from Kafka first, until they are compared with the store, and after the link has ended they are
compared again: Kafka may have lost some meanwhile.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import NamedTuple

from replicator.intervals import LINK_RETRY_MS, LINK_TIMEOUT_MS
from replicator.log.port import Entry
from replicator.node.backlog import Position
from replicator.node.checked_reader import CheckedReader
from replicator.node.client_writes import leading_member
from replicator.node.context import NodeContext
from replicator.node.leader_link import LeaderLink, LinkFailed, RecordStream
from replicator.protocol.timing import link_silence_ms
from replicator.records.types import Member

logger = logging.getLogger(__name__)


class Batch(NamedTuple):
    entries: Sequence[Entry]
    stream: RecordStream | None  # from which they come; None: from Kafka
    ack_requested: bool = False  # by the leader, over the stream


class FollowedLog:
    def __init__(self, context: NodeContext, link: LeaderLink) -> None:
        self._context = context
        self._link = link
        self._reader = CheckedReader(context.reader, context.log, context.replica, context.clock)
        self.compared = self._reader.compared  # as `CheckedReader.compared`
        self._stream: RecordStream | None = None  # from which records are read
        self._opened: RecordStream | None = None  # from which they are to be read next
        self._received_ms = 0.0  # when the last records came over the stream
        self._unlinked = asyncio.Event()  # set while there is no stream
        self._unlinked.set()
        self._why_unlinked = ""  # logged last

    async def next(self) -> Batch:
        """For `Replica.read`, or `Replica.read_sent` if there is a stream. Raises as `Reader.next`."""
        while True:
            if self._opened is not None:
                self._stream, self._opened = self._opened, None
                self._received_ms = self._context.clock.elapsed_ms()
                logger.info("records are received from %s", self._context.replica.state.leader)
            if self._stream is None:
                return Batch(await self._reader.next(), None)
            if (batch := await self._next_sent(self._stream)) is not None:
                return batch

    async def _next_sent(self, stream: RecordStream) -> Batch | None:
        clock, silence_ms = self._context.clock, link_silence_ms(self._context.timing)
        left_ms = self._received_ms + silence_ms - clock.elapsed_ms()
        try:
            async with asyncio.timeout(max(0.0, left_ms / 1000)):
                entries, ack_requested = await stream.next()
        except LinkFailed as error:
            self.leave_stream(str(error))
            return None
        except TimeoutError:
            self.leave_stream(f"it has sent nothing for {silence_ms:.0f} ms")
            return None
        if entries:
            self._received_ms = clock.elapsed_ms()
        return Batch(entries, stream, ack_requested)

    def leave_stream(self, why: str) -> None:
        """Go on with what Kafka has, once it is compared with the store."""
        logger.info("the log is read from Kafka, not received from %s: %s", self._context.replica.state.leader, why)
        self.close()
        self._reader.compare_again()

    async def keep_linked(self) -> None:
        """Run until cancelled: ask the leader for its records while they are read from Kafka."""
        await self.compared.wait()
        while True:
            await self._unlinked.wait()
            leader = self._leader()
            if leader is not None:
                await self._open(leader)
            await self._context.clock.sleep(LINK_RETRY_MS)

    async def _open(self, leader: Member) -> None:
        try:
            async with asyncio.timeout(LINK_TIMEOUT_MS / 1000):
                stream = await self._link.follow(leader, Position.of(self._context.replica.state))
        except (LinkFailed, TimeoutError) as error:
            why = f"{leader.author} sends no records: {error or f'no answer within {LINK_TIMEOUT_MS} ms'}"
            if why != self._why_unlinked:
                logger.info("%s", why)
                self._why_unlinked = why
        else:
            self._opened = stream
            self._unlinked.clear()

    def _leader(self) -> Member | None:
        """The process to ask, if it is another one, and registered."""
        member = leading_member(self._context)
        leader = self._context.replica.state.leader
        return None if member is None or leader == self._context.author or member.author != leader else member

    def close(self) -> None:
        """Close the streams."""
        for stream in (self._stream, self._opened):
            if stream is not None:
                stream.close()
        self._stream = self._opened = None
        self._unlinked.set()
