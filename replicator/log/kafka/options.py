"""How long the Kafka adapters wait, and how much they request at once. Tests use other values."""

from __future__ import annotations

from dataclasses import dataclass

from replicator import intervals, limits


@dataclass(frozen=True)
class KafkaOptions:
    append_timeout_ms: int = intervals.APPEND_TIMEOUT_MS
    offsets_timeout_ms: int = intervals.OFFSETS_TIMEOUT_MS
    reader_timeout_ms: int = intervals.READER_TIMEOUT_MS
    leader_check_ms: int = intervals.LEADER_CHECK_MS
    identity_check_ms: int = intervals.IDENTITY_CHECK_MS
    max_batch_bytes: int = limits.MAX_BATCH_BYTES
    fetch_bytes: int = limits.FETCH_BYTES
    fetch_wait_ms: int = intervals.FETCH_WAIT_MS


DEFAULTS = KafkaOptions()
