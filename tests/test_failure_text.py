"""Why a broker is unavailable, or refuses a request, in words."""

from __future__ import annotations

import errno
import socket

import pytest
from aiokafka.errors import KafkaConnectionError

from replicator.log.kafka.failure_text import describe_code, describe_failure


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (OSError(errno.ECONNREFUSED, "Connect call failed ('127.0.0.1', 9092)"), "connection refused"),
        (socket.gaierror(socket.EAI_NONAME, "Name or service not known"), "name or service not known"),
        (TimeoutError(), "no answer within 500 ms"),
        (KafkaConnectionError("Connection at kafka:9092 closed"), "connection at kafka:9092 closed"),
    ],
)
def test_the_reason_of_a_failure(error: Exception, text: str) -> None:
    assert describe_failure(error, 500) == text


@pytest.mark.parametrize(
    ("code", "text"),
    [
        (6, "Kafka is electing a new leader of the partition (Kafka error 6, NOT_LEADER_FOR_PARTITION)"),
        (74, "Kafka is electing a new leader of the partition (Kafka error 74, FENCED_LEADER_EPOCH)"),
        (87, "Broker failed to validate record (Kafka error 87, INVALID_RECORD)"),
    ],
)
def test_an_error_code_of_kafka(code: int, text: str) -> None:
    assert describe_code(code) == text
