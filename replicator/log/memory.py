"""A log and an ack topic in memory, for tests and for the simulated broker."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Sequence

from replicator.errors import LogTrimmed, LogTruncated
from replicator.limits import MAX_MESSAGE_BYTES
from replicator.log.port import AppendRefused, Entry, LogExtent
from replicator.position import NodeId, Offset


class MemoryLog:
    """A topic. The nodes of one event loop share one instance."""

    def __init__(self, *, identity: str | None = None, max_payload_bytes: int = MAX_MESSAGE_BYTES) -> None:
        self.identity = identity or str(uuid.uuid4())
        self.entries: list[Entry] = []
        self._first = Offset(0)
        self._next = Offset(0)
        self._max_payload_bytes = max_payload_bytes
        self._appended = asyncio.Event()
        self.truncations = 0

    async def append(self, payloads: Sequence[bytes]) -> Offset:
        return self.append_now(payloads)

    def append_now(self, payloads: Sequence[bytes]) -> Offset:
        if sum(map(len, payloads)) > self._max_payload_bytes:
            raise AppendRefused(f"the batch is larger than {self._max_payload_bytes} bytes")
        base = self._next
        self.entries.extend(Entry(Offset(base + i), payload) for i, payload in enumerate(payloads))
        self._next = Offset(base + len(payloads))
        self._appended.set()
        self._appended = asyncio.Event()
        return base

    def skip_offsets(self, count: int) -> None:
        """Leave a gap in the offsets, as Kafka may."""
        self._next = Offset(self._next + count)

    def trim(self, first: Offset) -> None:
        """Drop the entries below `first`."""
        self._first = first
        self.entries = [entry for entry in self.entries if entry.offset >= first]

    def truncate(self, end: Offset) -> None:
        """Lose the entries from `end` on, as Kafka does when it elects a broker that was behind."""
        self.entries = [entry for entry in self.entries if entry.offset < end]
        self._next = end
        self.truncations += 1
        self._appended.set()
        self._appended = asyncio.Event()

    @property
    def leader_changes(self) -> int:
        return self.truncations

    def reader(self, start: Offset) -> MemoryReader:
        return MemoryReader(self, start)

    async def start(self) -> Offset:
        return self._first

    async def end(self) -> Offset:
        return self._next

    async def extent(self) -> LogExtent:
        return LogExtent(await self.start(), sum(len(entry.payload) for entry in self.entries))

    async def close(self) -> None:
        pass

    async def wait_for_append(self) -> None:
        await self._appended.wait()


class MemoryReader:
    def __init__(self, log: MemoryLog, start: Offset) -> None:
        self._log = log
        self._position = start

    @property
    def leader_changes(self) -> int:
        return self._log.truncations

    async def next(self) -> Sequence[Entry]:
        while True:
            if self._position > self._log._next:
                raise LogTruncated(
                    f"the log ends at {self._log._next}, before offset {self._position}: it was truncated"
                )
            if self._position < self._log._first:
                raise LogTrimmed(
                    f"offset {self._position} was deleted, the log starts at {self._log._first}: start a new store"
                )
            found = self._after(self._position)
            if found:
                self._position = Offset(found[-1].offset + 1)
                return found
            await self._log.wait_for_append()

    def _after(self, offset: Offset) -> list[Entry]:
        entries = self._log.entries
        index = len(entries)
        while index and entries[index - 1].offset >= offset:
            index -= 1
        return entries[index : index + 1000]

    def seek(self, offset: Offset) -> None:
        self._position = offset

    async def close(self) -> None:
        pass


class MemoryAckTopic:
    """An ack topic that nodes share. Each node opens its own channel."""

    def __init__(self) -> None:
        self._channels: list[MemoryAcks] = []

    def open(self) -> MemoryAcks:
        channel = MemoryAcks(self)
        self._channels.append(channel)
        return channel

    def publish(self, payload: bytes) -> None:
        for channel in self._channels:
            channel.deliver(payload)

    def leave(self, channel: MemoryAcks) -> None:
        self._channels.remove(channel)


class MemoryAcks:
    def __init__(self, topic: MemoryAckTopic) -> None:
        self._topic = topic
        self._arrived: asyncio.Queue[bytes] = asyncio.Queue()

    def deliver(self, payload: bytes) -> None:
        self._arrived.put_nowait(payload)

    async def send(self, payload: bytes) -> None:
        self._topic.publish(payload)

    async def receive(self) -> Sequence[bytes]:
        return [await self._arrived.get()]

    async def skip(self) -> None:
        while not self._arrived.empty():
            self._arrived.get_nowait()

    async def close(self) -> None:
        self._topic.leave(self)


class MemoryAppliedOffsets:
    """Of one node. The nodes share `committed`."""

    def __init__(self, node: NodeId, committed: dict[NodeId, Offset]) -> None:
        self._node = node
        self._committed = committed

    async def commit(self, next_offset: Offset) -> None:
        self._committed[self._node] = next_offset

    def close(self) -> None:
        pass
