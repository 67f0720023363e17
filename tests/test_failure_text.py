"""Why a broker is unavailable, in words."""

from __future__ import annotations

import errno
import socket

import pytest
from aiokafka.errors import KafkaConnectionError

from replicator.log.kafka.failure_text import describe_failure


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
