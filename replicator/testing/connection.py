"""A client's end of a connection to a simulated node. The other end is that of the Redis server, in the node's process.

A connection carries requests without delay and never fails before its node dies: the faults are elsewhere.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import hiredis

from replicator.node.node import Node
from replicator.position import Offset
from replicator.protocol.levels import EVENTUAL
from replicator.server.redis.command import Args
from replicator.server.redis.resp import encode
from replicator.server.redis.server import RedisServer
from replicator.store.machine import Machine
from replicator.testing.history import Outcome, Request
from replicator.testing.loop import Process, SimLoop


class _Batch:
    """The lines that were sent for one request; the reply to one of them is that of the request."""

    def __init__(self, request: Request, lines: int, reply_at: int, done: Callable[[], None]) -> None:
        self.request = request
        self.left = lines
        self.left_at_reply = lines - reply_at
        self.done = done


class SimConnection(asyncio.Transport):
    def __init__(self, loop: SimLoop, process: Process, server: RedisServer, node: Node, machine: Machine) -> None:
        super().__init__()
        self._loop = loop
        self._process = process
        self._node = node
        self._machine = machine
        self._batches: deque[_Batch] = deque()
        self._replies = hiredis.Reader()
        self._far_end = server.accept()
        self._far_end.connection_made(self)

    @property
    def unanswered(self) -> int:
        return len(self._batches)

    @property
    def last_offset(self) -> Offset:
        """Of the last write that was acknowledged."""
        return self._far_end.last_offset

    def send(self, request: Request, lines: Sequence[Args], reply_at: int, done: Callable[[], None]) -> None:
        """`done` is called once the request has been answered: by the line at index `reply_at`, or as UNKNOWN."""
        self._batches.append(_Batch(request, len(lines), reply_at, done))
        data = b"".join(encode([*line], 2) for line in lines)
        self._loop.call_soon(self._arrive, request, data, context=self._process.context)

    def lose(self) -> None:
        """The node dies, or only the connection breaks."""
        self._far_end.connection_lost(None)
        batches = [*self._batches]
        self._batches.clear()
        for batch in batches:
            if batch.request.outcome is None:
                batch.request.answer(Outcome.UNKNOWN, self._loop.time(), "the connection was lost")
                batch.done()

    # In the node's process

    def _arrive(self, request: Request, data: bytes) -> None:
        if request.level is None and not self._node.leads:
            request.level = EVENTUAL  # the default at a follower
        self._far_end.data_received(data)

    def write(self, data: bytes | bytearray | memoryview[Any]) -> None:
        self._replies.feed(bytes(data))
        while (reply := self._replies.gets()) is not False:
            batch = self._batches[0]
            if batch.left == batch.left_at_reply:
                self._answer(batch, reply)
            batch.left -= 1
            if not batch.left:
                self._batches.popleft()

    def _answer(self, batch: _Batch, reply: object) -> None:
        request, now_s = batch.request, self._loop.time()
        request.state = self._machine.state
        if isinstance(reply, hiredis.ReplyError):
            unknown = str(reply).startswith("UNKNOWN")
            request.answer(Outcome.UNKNOWN if unknown else Outcome.REJECTED, now_s, str(reply))
        elif request.in_transaction and reply is None:
            request.answer(Outcome.REJECTED, now_s, "a watched row has changed")
        else:
            request.reply, request.record = reply, self._far_end.last_offset
            request.answer(Outcome.OK, now_s)
        batch.done()

    # The rest of a transport, as the server uses it

    def get_extra_info(self, name: str, default: object = None) -> object:
        return default

    def get_write_buffer_size(self) -> int:
        return 0

    def is_closing(self) -> bool:
        return False

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        pass

    def close(self) -> None:
        pass

    def abort(self) -> None:
        raise AssertionError("the server has closed the connection of a client that behaves")
