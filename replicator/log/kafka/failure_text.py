"""Why a connection to a broker or a request failed, in words that clients are shown."""

from __future__ import annotations

import os
import socket

from confluent_kafka import KafkaError

_ELECTION = "Kafka is electing a new leader of the partition"
_WORDS = {
    3: "the broker does not know this topic",
    5: "the partition has no leader now",
    6: _ELECTION,
    7: "the brokers did not confirm the request in time",
    10: "the batch is larger than max.message.bytes allows",
    19: "too few replicas of the partition are in sync (min.insync.replicas)",
    20: "too few replicas of the partition are in sync (min.insync.replicas), and one of them may have the records",
    56: "the broker cannot use its disk",
    74: _ELECTION,
    75: _ELECTION,
    78: "the new leader of the partition does not know yet which records all replicas have",
}


def describe_failure(error: Exception, timeout_ms: int) -> str:
    """Such as: connection refused."""
    if not isinstance(error, OSError):  # an error of aiokafka, whose text begins with its class
        text = str(error).removeprefix(f"{type(error).__name__}: ")
    elif error.errno and not isinstance(error, socket.gaierror):
        text = os.strerror(error.errno)  # asyncio's own text repeats the address
    else:
        text = error.strerror or str(error)
    return text[:1].lower() + text[1:] or f"no answer within {timeout_ms} ms"


def describe_code(code: int) -> str:
    """An error code of the Kafka protocol, such as: Kafka is electing a new leader … (error 6, NOT_LEADER_…)."""
    error = KafkaError(code)
    words = _WORDS.get(code) or error.str().removeprefix("Broker: ")
    return f"{words} (Kafka error {code}, {error.name()})"
