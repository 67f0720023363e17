"""What one record, one append and all writes in flight may take (checked before anything is appended), and how long
the ids of `REPL.ONCE` are remembered."""

MAX_RECORD_BYTES = 3_500_000  # with its header well below what one Kafka batch may hold (log.kafka: 4 MiB)
GROUP_RECORDS = 2_000
GROUP_BYTES = 1_000_000
MAX_INFLIGHT_BYTES = 64 << 20

ONCE_IDS = 1_000_000  # at 30,000 writes a second more than half a minute, far longer than a write is in doubt
ONCE_AGE_MS = 24 * 3600 * 1000
ONCE_ID_BYTES = 128
