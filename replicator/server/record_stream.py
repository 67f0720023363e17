"""The follower's end of a link: a connection to the leader after `REPL.FOLLOW` (`server.redis.commands.follow`).

    message                  meaning
    [offset, record, ...]    committed records, the first at this offset
    ACK                      the leader asks for an ack at once

Acks are sent as `REPL.ACK ack`, which has no reply.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any

from replicator.limits import MAX_LINK_BYTES, SLICE_BYTES, SLICE_ENTRIES
from replicator.log.port import Entry
from replicator.node.leader_link import LinkFailed, Received
from replicator.position import Offset
from replicator.server.link_connection import LinkConnection


class RedisRecordStream:
    """`node.leader_link.RecordStream`."""

    def __init__(self, connection: LinkConnection) -> None:
        self._connection = connection
        connection.on_message, connection.on_received = self._take, self._wake
        self._groups: deque[tuple[list[Entry], int]] = deque()  # with their size in bytes
        self._bytes = 0
        self._ack_requested = False
        self._waiting: asyncio.Future[None] | None = None
        self._reading = True

    async def next(self) -> Received:
        while not (self._groups or self._ack_requested):
            if self._connection.closed is not None:
                raise self._connection.closed
            self._waiting = asyncio.get_running_loop().create_future()
            await self._waiting
        entries: list[Entry] = []
        size = 0
        while self._groups and len(entries) < SLICE_ENTRIES and size < SLICE_BYTES:
            group, group_bytes = self._groups.popleft()
            entries += group
            size += group_bytes
        self._bytes -= size
        if not self._reading and not self._groups and self._connection.closed is None:
            self._reading = True
            self._connection.transport.resume_reading()
        if self._groups:
            await asyncio.sleep(0)  # so that many records do not starve other tasks
            return Received(entries, ack_requested=False)
        ack_requested, self._ack_requested = self._ack_requested, False
        return Received(entries, ack_requested)

    def ack(self, payload: bytes) -> None:
        if self._connection.closed is None:
            self._connection.send("REPL.ACK", payload)

    def close(self) -> None:
        self._connection.close()

    def _take(self, message: Any) -> None:
        match message:
            case [int(base), *payloads]:
                entries = [Entry(Offset(base + at), payload) for at, payload in enumerate(payloads)]
                size = sum(map(len, payloads))
                self._groups.append((entries, size))
                self._bytes += size
            case b"ACK":
                self._ack_requested = True
            case _:
                self._connection.fail(LinkFailed(f"the leader sent: {message!r:.200}"))

    def _wake(self) -> None:
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)
        if self._reading and self._bytes > MAX_LINK_BYTES // 4 and self._connection.closed is None:
            self._reading = False
            self._connection.transport.pause_reading()
