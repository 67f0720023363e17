"""A simulated stream from one node to another: messages keep their order, unless the network is faulty.

Messages may also be lost or overtake each other. TCP prevents this; here it tests that followers detect it. Nodes that
cannot reach each other receive messages late or never. The process at either end may be paused or killed meanwhile.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

from replicator.log.port import Entry
from replicator.node.committed_batch import CommittedBatch
from replicator.node.node import Node
from replicator.node.node_link import LinkFailed, ReceivedRecords, StreamSignal
from replicator.position import Author, Offset
from replicator.testing.link import Link
from replicator.testing.loop import Process


class _Direction:
    """Messages in one direction."""

    def __init__(self, sender: Link, receiver: Link) -> None:
        self._sender = sender
        self._receiver = receiver
        self._last_s = 0.0  # when the message before arrives

    def send(self, arrive: Callable[..., object], *args: Any) -> None:
        kafka = self._sender.kafka
        now_s, rng = kafka.loop.time(), kafka.rng
        if self._sender.cut:
            return
        at_s = now_s + kafka.message_ms() / 1000
        isolated_until_s = max(self._sender.isolated_until_s, self._receiver.isolated_until_s)
        if now_s < isolated_until_s:
            if rng.random() < 0.5:
                return
            at_s = max(at_s, isolated_until_s)
        at_s = max(at_s, self._receiver.unsent_until_s)
        if rng.random() < kafka.faults.stream_message_fails:
            if rng.random() < 0.5:
                return
        else:
            at_s = self._last_s = max(at_s, self._last_s)
        kafka.later((at_s - now_s) * 1000, arrive, *args)


class SimRecordStream:
    """`node.node_link.RecordStream`."""

    def __init__(self, follower: Link, upstream: Link, node: Node, process: Process) -> None:
        """`node`: the upstream. `process`: in which it runs."""
        self._to_upstream = _Direction(follower, upstream)
        self._loop = follower.kafka.loop
        self._node = node
        self._process = process
        self._messages: deque[CommittedBatch | StreamSignal] = deque()
        self._lost = False
        self._waiting: asyncio.Future[None] | None = None
        self.sink = SimRecordSink(self, _Direction(upstream, follower), upstream)

    # In the process of the follower

    async def next(self) -> ReceivedRecords:
        while not self._messages:
            if self._lost:
                raise LinkFailed("the connection was closed")
            self._waiting = asyncio.get_running_loop().create_future()
            await self._waiting
        entries: list[Entry] = []
        while self._messages:
            batch = self._messages.popleft()
            if isinstance(batch, StreamSignal):
                return ReceivedRecords(entries, batch)
            entries += [Entry(Offset(batch.base + at), payload) for at, payload in enumerate(batch.payloads)]
        return ReceivedRecords(entries, None)

    def ack(self, *payloads: bytes) -> None:
        self._to_upstream.send(self._at_upstream, self._node.record_acks, self.sink, payloads)

    def report_downstream(self, downstream: Mapping[Author, int]) -> None:
        self._to_upstream.send(self._at_upstream, self._node.set_downstream, self.sink, downstream)

    def close(self) -> None:
        self.lose()
        self._to_upstream.send(self._at_upstream, self._node.end_stream, self.sink)

    # What arrives

    def _at_upstream(self, callback: Callable[..., object], *args: Any) -> None:
        self._loop.call_soon(callback, *args, context=self._process.context)

    def receive(self, batch: CommittedBatch) -> None:
        self._messages.append(batch)
        self._wake()

    def receive_signal(self, signal: StreamSignal) -> None:
        self._messages.append(signal)
        self._wake()

    def lose(self) -> None:
        self._lost = True
        self._wake()

    def _wake(self) -> None:
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)


class SimRecordSink:
    """`node.backlog.RecordSink`, in the process of the upstream."""

    def __init__(self, stream: SimRecordStream, way: _Direction, sender: Link) -> None:
        self._stream = stream
        self._way = way
        self._sender = sender

    def send(self, batch: CommittedBatch) -> None:
        self._way.send(self._stream.receive, batch)

    def request_ack(self) -> None:
        self._way.send(self._stream.receive_signal, StreamSignal.GETACK)

    def send_heartbeat(self) -> None:
        self._way.send(self._stream.receive_signal, StreamSignal.HEARTBEAT)

    @property
    def unsent_bytes(self) -> int:
        return 0

    def close(self) -> None:
        """Also if its process is killed: its system closes the connection, unless that has crashed, too."""
        kafka = self._sender.kafka
        if not self._sender.isolated and (not self._sender.cut or kafka.rng.random() < 0.5):
            kafka.later(kafka.message_ms(), self._stream.lose)
