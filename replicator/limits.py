"""Every size limit of the program, with its unit in the name and the reason for it in the text below.

They are not settings. The table in docs/configuration.md is made of these texts (`python -m tools.configuration_doc`).
"""

# Names

MAX_NAME_CHARS = 100
"""Name of a node or a cluster. It is part of a topic name, for which Kafka allows 249 characters, and a folder name."""

# Keys, values and records

MAX_KEY_BYTES = 511
"""Table, row and field of an entry in the store together: the longest key of LMDB (`MDB_MAXKEYSIZE`)."""

MAX_VALUE_BYTES = 512 << 10
"""Value of a key or a hash field. A record has the old and the new value, and must fit into MAX_RECORD_BYTES."""

MAX_RECORD_BYTES = 3_500_000
"""One transaction in the log. With its header it must fit into one Kafka batch (MAX_BATCH_BYTES)."""

GROUP_RECORDS = 2_000
"""Records in one append. Bounds the time that the event loop spends on it."""

GROUP_BYTES = 1_000_000
"""Total size of the records in one append; a larger record is appended alone. Bounds the latency of an append."""

MAX_INFLIGHT_BYTES = 64 << 20
"""Total size of the writes that are not yet committed. Bounds memory; further writes fail with `BUSY`."""

FLUSH_ENTRIES = 5_000
"""Entries that one record of FLUSHALL deletes. Bounds the time that the event loop spends on the record."""

FLUSH_BYTES = 1_000_000
"""Total size of the entries that one record of FLUSHALL deletes. Keeps the record far below MAX_RECORD_BYTES."""

# REPL.ONCE

ONCE_IDS = 1_000_000
"""Ids of REPL.ONCE in the store, the latest ones: at 30,000 writes a second, those of more than half a minute."""

ONCE_AGE_MS = 24 * 3600 * 1000
"""Age after which the store deletes an id of REPL.ONCE."""

ONCE_ID_BYTES = 128
"""Length of an id of REPL.ONCE. It is part of a key, see MAX_KEY_BYTES."""

# Clients

MAX_REQUEST_BYTES = 8 << 20
"""One request of a Redis client. Bounds memory for a connection."""

MAX_INLINE_BYTES = 64 << 10
"""One request of a Redis client in the inline format: the limit of Redis."""

MAX_PENDING_REPLIES = 4096
"""Writes of one connection without an answer. Bounds memory; the node stops reading from the connection."""

MAX_READY_BYTES = 1 << 20
"""Answers that a connection collects before it writes them to the socket. Bounds memory for a connection."""

MAX_UNPARSED_BYTES = 1 << 20
"""Requests that a connection reads ahead while it waits. Bounds memory; the node stops reading from the connection."""

MAX_UNREAD_BYTES = 1 << 20
"""Messages to a subscriber that it has not read. Bounds memory; the node closes the connection."""

MAX_CURSORS = 100_000
"""SCAN cursors that a node remembers, the latest ones. Bounds memory."""

MAX_BOUND = 10**9
"""Milliseconds (11 days) or records of the read level `bounded`. A larger bound is rejected as a mistake."""

MAX_BODY_BYTES = 64 << 10
"""Body of an HTTP request. Bounds memory; requests to change a setting are far smaller."""

EXPIRED_ROWS_AT_ONCE = 200
"""Expired rows that the leader deletes at once, a record each. Bounds the time that the event loop spends on it."""

# Kafka

MAX_BATCH_BYTES = 4 << 20
"""One Kafka record batch, which is one append. Larger than any record, smaller than MAX_MESSAGE_BYTES."""

FETCH_BYTES = 4 << 20
"""Records that a node fetches from Kafka at once. Bounds memory: a reader keeps two responses."""

SLICE_ENTRIES = 2_000
"""Fetched records that a node decodes at once. Bounds the time that the event loop spends on it, to about 3 ms."""

MAX_MESSAGE_BYTES = 16 << 20
"""`max.message.bytes` of the log's topic. A multiple of MAX_BATCH_BYTES, so that Kafka accepts every batch."""

LOCAL_BROKER_MESSAGE_BYTES = 32 << 20
"""`message.max.bytes` of the Kafka that `replicator broker start` runs. Larger than MAX_MESSAGE_BYTES."""
