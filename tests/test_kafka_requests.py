"""Our own requests, byte by byte against aiokafka's; `tests.test_log_kafka` sends them to a real broker."""

from __future__ import annotations

from typing import Any

import pytest
from aiokafka.errors import IncompatibleBrokerVersion
from aiokafka.protocol.fetch import FetchRequest_v9, FetchResponse_v9
from aiokafka.protocol.offset import OffsetResponse_v4
from aiokafka.protocol.produce import ProduceRequest_v3, ProduceResponse_v3

from replicator.log.kafka.broker_connection import check_versions
from replicator.log.kafka.requests import (
    EARLIEST,
    LATEST,
    Fetch,
    FetchedRecords,
    ListedOffset,
    ListOffsets,
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
    (FETCH, FetchResponse_v9(7, 0, 0, [(TOPIC, [(0, 0, 5, 5, 1, [], b"records")])]), FetchedRecords(0, b"records")),
    (FETCH, FetchResponse_v9(7, 0, 0, [(TOPIC, [(0, 0, 5, 5, 1, ABORTED, b"abc")])]), FetchedRecords(0, b"abc")),
    (FETCH, FetchResponse_v9(7, 0, 0, [(TOPIC, [(0, 74, -1, -1, -1, None, None)])]), FetchedRecords(74, b"")),
    (FETCH, FetchResponse_v9(7, 56, 0, []), FetchedRecords(56, b"")),
    (LIST, OffsetResponse_v4(7, [(TOPIC, [(0, 0, -1, OFFSET, 7)])]), ListedOffset(0, OFFSET)),
]


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
