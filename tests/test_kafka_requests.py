"""Our own requests, byte by byte against aiokafka's; `tests.test_log_kafka` sends them to a real broker."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, cast

import pytest
from aiokafka.conn import AIOKafkaConnection
from aiokafka.errors import IncompatibleBrokerVersion, KafkaConnectionError
from aiokafka.protocol.fetch import FetchRequest_v9, FetchResponse_v9
from aiokafka.protocol.offset import OffsetResponse_v4
from aiokafka.protocol.produce import ProduceRequest_v3, ProduceResponse_v3
from aiokafka.protocol.types import Array, Boolean, Int16, Int32, Int64, Schema, String

from replicator.log.kafka.broker_connection import BrokerConnection, check_versions
from replicator.log.kafka.requests import (
    EARLIEST,
    LATEST,
    DescribeLogDirs,
    Fetch,
    FetchedRecords,
    ListedOffset,
    ListOffsets,
    LogSize,
    PartitionRequest,
    Produce,
    Produced,
)
from replicator.position import Offset
from tests.fake_kafka import ListOffsetsRequestV4

TOPIC = "größer.wal"  # its length in bytes is not its length in characters
ENCODED = TOPIC.encode()
OFFSET = Offset(1 << 40)

PRODUCE = Produce(ENCODED, b"batch", acks=-1, timeout_ms=1500)
FETCH = Fetch(ENCODED, OFFSET, epoch=7, max_wait_ms=500, max_bytes=1 << 20)
LIST = ListOffsets(ENCODED, LATEST, epoch=7)
ABORTED = [(1, 2)] * 3
REQUESTS = [
    (PRODUCE, ProduceRequest_v3(None, -1, 1500, [(TOPIC, [(0, b"batch")])])),
    (
        Produce(ENCODED, b"", acks=1, timeout_ms=0),
        ProduceRequest_v3(None, 1, 0, [(TOPIC, [(0, b"")])]),
    ),
    (FETCH, FetchRequest_v9(-1, 500, 1, 1 << 20, 0, 0, -1, [(TOPIC, [(0, 7, OFFSET, -1, 1 << 20)])], [])),
    (ListOffsets(ENCODED, LATEST, epoch=7), ListOffsetsRequestV4(-1, 0, [(TOPIC, [(0, 7, LATEST)])])),
    (ListOffsets(ENCODED, EARLIEST, epoch=0), ListOffsetsRequestV4(-1, 0, [(TOPIC, [(0, 0, EARLIEST)])])),
]
RESPONSES = [
    (PRODUCE, ProduceResponse_v3([(TOPIC, [(0, 0, OFFSET, -1)])], 7), Produced(0, OFFSET)),
    (PRODUCE, ProduceResponse_v3([(TOPIC, [(0, 19, -1, -1)])], 0), Produced(19, Offset(-1))),
    (FETCH, FetchResponse_v9(0, 0, 0, [(TOPIC, [(0, 0, 5, 5, 1, [], b"records")])]), FetchedRecords(0, b"records")),
    (FETCH, FetchResponse_v9(7, 0, 0, [(TOPIC, [(0, 0, 5, 5, 1, ABORTED, b"abc")])]), FetchedRecords(0, b"abc", 7)),
    (FETCH, FetchResponse_v9(7, 0, 0, [(TOPIC, [(0, 74, -1, -1, -1, None, None)])]), FetchedRecords(74, b"", 7)),
    (FETCH, FetchResponse_v9(7, 56, 0, []), FetchedRecords(56, b"", 7)),
    (FETCH, FetchResponse_v9(300, 0, 0, []), FetchedRecords(0, b"", 300)),  # a quota is exceeded
    (LIST, OffsetResponse_v4(7, [(TOPIC, [(0, 0, -1, OFFSET, 7)])]), ListedOffset(0, OFFSET)),
]


_LOG = Array(("partition", Int32), ("size", Int64), ("lag", Int64), ("is_future", Boolean))
_LOGS = Array(("name", String("utf-8")), ("partitions", _LOG))
LOG_DIRS = Schema(("throttle_ms", Int32), ("dirs", Array(("code", Int16), ("dir", String("utf-8")), ("topics", _LOGS))))


def test_the_request_for_the_size_of_the_log() -> None:
    request = Schema(("topics", Array(("name", String("utf-8")), ("partitions", Array(Int32)))))
    assert DescribeLogDirs(ENCODED).encode() == request.encode([[(TOPIC, [0])]])


@pytest.mark.parametrize(
    ("folders", "size"),
    [
        ([(0, "/a", []), (0, "/b", [(TOPIC, [(0, 1 << 40, 0, False)])])], LogSize(0, 1 << 40)),
        ([(57, "/a", []), (0, "/b", [])], LogSize(57, 0)),
        ([], LogSize(31, 0)),
    ],
    ids=["in the second folder", "a broken folder", "not allowed"],
)
def test_the_size_of_the_log(folders: Any, size: LogSize) -> None:
    assert DescribeLogDirs(ENCODED).decode(b"head" + LOG_DIRS.encode([7, folders]), 4) == size


@pytest.mark.parametrize(("own", "other"), REQUESTS)
def test_a_request_has_the_bytes_of_aiokafkas(own: PartitionRequest, other: Any) -> None:
    assert (own.API_KEY, own.API_VERSION) == (other.API_KEY, other.API_VERSION)
    assert own.encode() == other.encode()


@pytest.mark.parametrize(("own", "response", "answer"), RESPONSES)
def test_a_response_is_read_as_by_aiokafka(own: PartitionRequest, response: Any, answer: Any) -> None:
    assert own.decode(b"before" + response.encode(), len(b"before")) == answer


SUPPORTED = {0: (3, 13), 1: (4, 17), 2: (1, 10)}


@pytest.mark.parametrize("versions", [{}, SUPPORTED | {1: (10, 17)}, SUPPORTED | {1: (0, 8)}])
def test_a_broker_that_does_not_support_a_version_is_refused(versions: dict[int, tuple[int, int]]) -> None:
    with pytest.raises(IncompatibleBrokerVersion, match=f"of {'Fetch' if versions else 'Produce'}"):
        check_versions(versions)
    check_versions(SUPPORTED)


class Opened:
    """A connection that aiokafka has opened."""

    def close(self) -> None:
        pass


class FakeTransport:
    def __init__(self) -> None:
        self.sent: list[bytes] = []

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        pass

    def is_closing(self) -> bool:
        return False

    def writelines(self, parts: Sequence[bytes]) -> None:
        self.sent.append(b"".join(parts))


def frame(number: int, response: Any) -> bytes:
    content: bytes = number.to_bytes(4, "big") + response.encode()
    return len(content).to_bytes(4, "big") + content


@pytest.fixture
async def connection() -> BrokerConnection:
    return BrokerConnection(cast(AIOKafkaConnection, Opened()), cast(asyncio.Transport, FakeTransport()), b"id")


async def ask(connection: BrokerConnection, *requests: PartitionRequest) -> list[asyncio.Task[Any]]:
    asking = [asyncio.create_task(connection.send(request)) for request in requests]
    await asyncio.sleep(0)
    return asking


@pytest.mark.parametrize("piece", [1, 3, 4, 7, 1000])
async def test_answers_arrive_in_pieces_of_any_size(connection: BrokerConnection, piece: int) -> None:
    asking = await ask(connection, PRODUCE, FETCH, LIST)
    answers = [RESPONSES[index] for index in (0, 2, 7)]
    received = b"".join(frame(number, response) for number, (_, response, _) in enumerate(answers, 1))
    for start in range(0, len(received), piece):
        connection.data_received(received[start : start + piece])
    assert await asyncio.gather(*asking) == [answer for *_, answer in answers]


@pytest.mark.parametrize(
    "received",
    [frame(2, RESPONSES[0][1]), bytes(4), b"\xff" * 4, b"\0\0\0\6\0\0\0\1xx"],
    ids=["another request", "no bytes", "negative", "not a response"],
)
async def test_an_answer_that_is_none_ends_all_requests(connection: BrokerConnection, received: bytes) -> None:
    asking = await ask(connection, PRODUCE, FETCH)
    connection.data_received(received)
    connection.connection_lost(None)
    for request in asking:
        with pytest.raises(KafkaConnectionError):
            await request


async def test_the_answer_to_a_cancelled_request_is_not_taken_for_the_next_one(connection: BrokerConnection) -> None:
    cancelled, waiting = await ask(connection, PRODUCE, PRODUCE)
    cancelled.cancel()
    await asyncio.sleep(0)
    for number, (_, response, _) in enumerate(RESPONSES[:2], 1):
        connection.data_received(frame(number, response))
    assert await waiting == RESPONSES[1][2]
