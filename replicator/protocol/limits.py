"""What one record, one append and all writes in flight may take; checked before anything is appended."""

MAX_RECORD_BYTES = 3_500_000  # with its header well below what one Kafka batch may hold (log.kafka: 4 MiB)
GROUP_RECORDS = 2_000
GROUP_BYTES = 1_000_000
MAX_INFLIGHT_BYTES = 64 << 20
