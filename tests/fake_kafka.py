"""Brokers that speak Kafka's protocol and believe what a test tells them: which of them leads, and in which epoch."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from io import BytesIO
from typing import Any

from aiokafka.protocol.admin import ApiVersionRequest_v0, ApiVersionResponse_v0
from aiokafka.protocol.fetch import FetchRequest_v9, FetchResponse_v9
from aiokafka.protocol.offset import OffsetRequest_v4, OffsetResponse_v4
from aiokafka.protocol.produce import ProduceRequest_v3, ProduceResponse_v3
from aiokafka.protocol.types import Array, Int8, Int32, Int64, Schema, String, TaggedFields

from replicator.address import Address
from replicator.log.kafka.metadata import NO_ID, MetadataRequestV10, MetadataResponseV10
from replicator.log.kafka.partition import encode_batch
from replicator.log.kafka.requests import EARLIEST

HOST = "127.0.0.1"
MAX_BYTES = 1 << 20
THROTTLE_MS = 20
TOPIC_ID = "cQvwtYYkT/C5hm+NfTQmIA"
NONE, UNKNOWN_TOPIC, NOT_ENOUGH_REPLICAS, FENCED_EPOCH, UNKNOWN_EPOCH = 0, 3, 19, 74, 75


class ListOffsetsRequestV4(OffsetRequest_v4):  # type: ignore[misc]
    """Of Kafka's protocol guide: aiokafka's gives the leader epoch eight bytes."""

    PARTITION = (("partition", Int32), ("current_leader_epoch", Int32), ("timestamp", Int64))
    TOPIC = (("topic", String("utf-8")), ("partitions", Array(*PARTITION)))
    SCHEMA = Schema(("replica_id", Int32), ("isolation_level", Int8), ("topics", Array(*TOPIC)))


REQUESTS = {it.API_KEY: it for it in (ProduceRequest_v3, FetchRequest_v9, ListOffsetsRequestV4, MetadataRequestV10)}


class FakeBroker:
    """A replica of the one partition of a topic. Change its attributes at any time."""

    def __init__(self, node: int) -> None:
        self.node = node
        self.leader, self.epoch = 1, 1  # as this broker believes
        self.batches: list[bytes] = []  # of one record each
        self.append_error = NONE
        self.appends_hang = False
        self.appends = 0  # requests
        self.readable: int | None = None  # how many batches it returns at most
        self.throttles = 0  # answers to fetches that exceed a quota
        self.hangs = False  # accepts connections, and answers nothing
        self.latency_ms = 0
        self.kafka = "fake"  # the id of its Kafka
        self.topic_exists = True
        self.topic_id = TOPIC_ID
        self.metadata_requests = 0
        self.client_ids: set[str] = set()
        self.peers: Sequence[FakeBroker] = ()
        self.port = 0
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.StreamWriter] = set()

    def add(self, payload: bytes) -> None:
        batch = encode_batch([payload], MAX_BYTES)
        assert batch is not None
        self._append(batch)

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._serve, HOST, self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        assert self._server is not None
        self._server.close()
        for connection in self._connections:
            connection.close()
        await self._server.wait_closed()

    def _append(self, batch: bytes) -> int:
        offset = len(self.batches)
        self.batches.append(struct.pack(">q", offset) + batch[8:])  # the checksum does not cover the offset
        return offset

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._connections.add(writer)
        try:
            while True:
                [size] = struct.unpack(">i", await reader.readexactly(4))
                request = BytesIO(await reader.readexactly(size))
                key, version, correlation, name_size = struct.unpack(">hhih", request.read(10))
                self.client_ids.add(request.read(name_size).decode())
                if self.hangs:
                    continue
                flexible = key == MetadataRequestV10.API_KEY
                if flexible:
                    TaggedFields.decode(request)
                header = struct.pack(">i", correlation) + (TaggedFields.encode({}) if flexible else b"")
                await asyncio.sleep(self.latency_ms / 1000)
                answer = header + (await self._answer(key, version, request)).encode()
                writer.write(struct.pack(">i", len(answer)) + answer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            self._connections.discard(writer)
            writer.close()

    async def _answer(self, key: int, version: int, body: BytesIO) -> Any:
        if key == ApiVersionRequest_v0.API_KEY:
            return ApiVersionResponse_v0(
                NONE, [(key, it.API_VERSION, it.API_VERSION) for key, it in sorted(REQUESTS.items())]
            )
        request: Any = REQUESTS[key].decode(body)
        assert version == request.API_VERSION
        if isinstance(request, MetadataRequestV10):
            return self._metadata(request)
        topic: str
        asked: tuple[Any, ...]
        topic, [asked] = request.topics[0]
        if isinstance(request, ProduceRequest_v3):
            self.appends += 1
            if self.appends_hang:
                await asyncio.Event().wait()
            offset = -1 if self.append_error else self._append(asked[1])
            return ProduceResponse_v3([(topic, [(0, self.append_error, offset, -1)])], 0)
        code = NONE if asked[1] == self.epoch else FENCED_EPOCH if asked[1] < self.epoch else UNKNOWN_EPOCH
        if isinstance(request, FetchRequest_v9):
            start = asked[2]
            if self.throttles:
                self.throttles -= 1
                return FetchResponse_v9(THROTTLE_MS, NONE, 0, [])
            if code != NONE:
                return FetchResponse_v9(0, NONE, 0, [(topic, [(0, code, -1, -1, -1, [], b"")])])
            if start >= len(self.batches[: self.readable]):
                await asyncio.sleep(request.max_wait_time / 1000)
            records = b"".join(self.batches[start : self.readable])
            end = len(self.batches)
            return FetchResponse_v9(0, NONE, 0, [(topic, [(0, NONE, end, end, 0, [], records)])])
        offset = 0 if asked[2] == EARLIEST else len(self.batches)
        return OffsetResponse_v4(0, [(topic, [(0, code, -1, offset, self.epoch)])])

    def _metadata(self, request: Any) -> Any:
        self.metadata_requests += 1
        [(_, topic, _)] = request.topics
        partition: tuple[Any, ...] = (NONE, 0, self.leader, self.epoch, [1], [1], [], {})
        found: tuple[Any, ...] = (NONE, topic, self.topic_id, False, [partition], 0, {})
        topics = [found if self.topic_exists else (UNKNOWN_TOPIC, topic, NO_ID, False, [], 0, {})]
        brokers: list[tuple[Any, ...]] = [(it.node, HOST, it.port, None, {}) for it in self.peers]
        return MetadataResponseV10(0, brokers, self.kafka, 1, topics, 0, {})


@asynccontextmanager
async def fake_brokers(count: int) -> AsyncIterator[list[FakeBroker]]:
    """Broker 1 leads in epoch 1."""
    brokers = [FakeBroker(node) for node in range(1, count + 1)]
    for broker in brokers:
        broker.peers = brokers
        await broker.start()
    yield brokers
    for broker in brokers:
        await broker.stop()


def elect(brokers: Sequence[FakeBroker], leader: FakeBroker, epoch: int) -> None:
    """These brokers learn that there is another leader."""
    for broker in brokers:
        broker.leader, broker.epoch = leader.node, epoch


def bootstrap(brokers: Sequence[FakeBroker]) -> str:
    return ",".join(str(Address(HOST, broker.port)) for broker in brokers)
