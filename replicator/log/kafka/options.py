"""Timeouts and size limits of the Kafka adapters."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class KafkaOptions:
    append_timeout_ms: int = 2000
    offsets_timeout_ms: int = 2000
    reader_timeout_ms: int = 5000  # a reader raises once its requests have failed for so long
    identity_check_ms: int = 2000
    max_batch_bytes: int = 4 << 20  # at most the topic's max.message.bytes
    fetch_bytes: int = 4 << 20
    fetch_wait_ms: int = 500


DEFAULTS = KafkaOptions()
