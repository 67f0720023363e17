"""The follower's end of a stream: a connection to its upstream after REPL.FOLLOW (`server.redis.commands.nodes`).

    message                  meaning
    [offset, record, ...]    committed records, the first at this offset
    GETACK                   the upstream requests acks of what it has sent before
    HEARTBEAT                the same; and the leader is alive, though it may append nothing for a while

Acks are sent as `REPL.ACK ack [ack ...]`, the downstream processes as `REPL.DOWNSTREAM`; neither has a reply.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Mapping
from itertools import chain
from typing import Any

from replicator.limits import GROUP_RECORDS, MAX_ACKS, RECEIVED_BYTES, SLICE_BYTES, SLICE_ENTRIES
from replicator.log.port import Entry
from replicator.node.node_link import LinkFailed, ReceivedRecords, StreamSignal
from replicator.position import Author, Offset
from replicator.server.node_connection import NodeConnection

MAX_MESSAGE_RECORDS = max(GROUP_RECORDS, SLICE_ENTRIES)
ENTRY_BYTES = 100
"""What a record takes in memory besides its payload, until it is decoded."""


class RedisRecordStream:
    """`node.node_link.RecordStream`."""

    def __init__(self, connection: NodeConnection) -> None:
        self._connection = connection
        connection.receiver = self
        self._messages: deque[Entry | StreamSignal] = deque()
        self._bytes = 0  # of the records in `_messages`
        self._waiting: asyncio.Future[None] | None = None
        self._reading = True

    async def next(self) -> ReceivedRecords:
        messages = self._messages
        if messages:
            await asyncio.sleep(0)  # so that many records do not starve other tasks; cancelling it loses nothing
        while not messages:
            if self._connection.closed is not None:
                raise self._connection.closed
            self._waiting = asyncio.get_running_loop().create_future()
            await self._waiting
        entries: list[Entry] = []
        size, signal = 0, None
        while messages and signal is None and len(entries) < SLICE_ENTRIES and size < SLICE_BYTES:
            message = messages.popleft()
            if isinstance(message, StreamSignal):
                signal = message
            else:
                entries.append(message)
                size += _size(message.payload)
        self._bytes -= size
        if not self._reading and self._bytes <= RECEIVED_BYTES // 2 and self._connection.closed is None:
            self._reading = True
            self._connection.transport.resume_reading()
        return ReceivedRecords(entries, signal)

    def ack(self, *payloads: bytes) -> None:
        if self._connection.closed is None:
            for start in range(0, len(payloads), MAX_ACKS):
                self._connection.send("REPL.ACK", *payloads[start : start + MAX_ACKS])

    def report_downstream(self, downstream: Mapping[Author, int]) -> None:
        if self._connection.closed is None:
            words = ((author.node, str(author.incarnation), str(version)) for author, version in downstream.items())
            self._connection.send("REPL.DOWNSTREAM", *chain.from_iterable(words))

    def close(self) -> None:
        self._messages.clear()
        self._connection.close()

    # The connection

    def take(self, message: Any) -> None:
        match message:
            case [int(base), *payloads] if len(payloads) <= MAX_MESSAGE_RECORDS and all(map(_is_record, payloads)):
                self._messages += [Entry(Offset(base + at), payload) for at, payload in enumerate(payloads)]
                self._bytes += sum(map(_size, payloads))
            case b"GETACK" | b"HEARTBEAT":
                signal = StreamSignal(message)
                if not self._messages or self._messages[-1] is not signal:
                    self._messages.append(signal)
            case _:
                self._connection.close(LinkFailed(f"the upstream sent: {message!r:.200}"))

    def received(self) -> None:
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)
        if self._reading and self._bytes > RECEIVED_BYTES and self._connection.closed is None:
            self._reading = False
            self._connection.transport.pause_reading()


def _is_record(payload: Any) -> bool:
    return type(payload) is bytes and bool(payload)


def _size(payload: bytes) -> int:
    """In memory."""
    return len(payload) + ENTRY_BYTES
