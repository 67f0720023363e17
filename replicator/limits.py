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

GROUP_CHANGES = 5_000
"""Entries that the records in one append change; a larger record is appended alone. Bounds the time to apply them."""

GROUP_BYTES = 1_000_000
"""Total size of the records in one append; a larger record is appended alone. Bounds the latency of an append."""

MAX_INFLIGHT_BYTES = 64 << 20
"""Total size of the writes that are not yet committed. Bounds memory; further writes fail with `BUSY`."""

RECORD_CHANGES = 1_000
"""Entries that the transactions in one record change; a larger one is alone. Bounds the time to apply it."""

FLUSH_ENTRIES = 1_000
"""Entries that one record of FLUSHALL, or of a large row that has expired, deletes. Bounds the time of the record."""

FLUSH_BYTES = 1_000_000
"""Total size of the entries that one such record deletes. Keeps the record far below MAX_RECORD_BYTES."""

# Commands that are executed by each replica

MAX_TAPE_CALLS = 10_000
"""Nondeterministic calls of one transaction, such as `random()`. Bounds the time of the record at each node."""

MAX_TAPE_BYTES = 1 << 20
"""Total size of their results. Keeps the record below MAX_RECORD_BYTES."""

# SQL

MAX_SQL_BYTES = 64 << 10
"""Text of a statement. Bounds the time to compile it."""

MAX_SQL_TOKENS = 20_000
"""Words, values and signs in an SQL statement. Bounds the time to parse it, in which no other client is served."""

MAX_SQL_PARAMETERS = 32_766
"""Parameters of a statement: SQLite's own limit of their number (SQLITE_LIMIT_VARIABLE_NUMBER)."""

MAX_SQL_NAMES_BYTES = 64 << 10
"""Names of the columns of a result together. They are kept for each statement, so this bounds memory."""

MAX_SQL_OBJECTS = 200
"""Tables, indexes and views. Bounds the time to prepare the engine after the schema has changed."""

MAX_SQL_COLUMNS = 4_000
"""Columns of all tables together. Bounds the same time, to about 30 ms."""

MAX_SQL_INDEXES = 500
"""Indexes of all tables together, with those of PRIMARY KEY and UNIQUE, for the same reason."""

MAX_SCHEMA_BYTES = 128 << 10
"""Total size of the statements that have created them, for the same reason."""

MAX_TRACKED_ENTRIES = 20_000
"""Entries that a transaction or a statement that writes can read. All are read again at its end, at once."""

MAX_TRACKED_BYTES = 32 << 20
"""Of the entries that a transaction or a statement that writes reads by their keys: they are kept until its end."""

MAX_REPLACED_BYTES = 32 << 20
"""Values that a transaction writes and then replaces itself: kept until its end, as it may be rolled back to them."""

MAX_LOGGED_BYTES = 32 << 20
"""Commands between BEGIN and COMMIT that have changed something: kept until its end. Bounds memory."""

MAX_SAVEPOINTS = 100
"""Savepoints of one transaction. Bounds memory."""

MAX_SQL_S = 60
"""Time of a statement. It runs in slices of SLICE_MS, so this bounds what it costs the other clients."""

MAX_SQL_MEMORY_BYTES = 512 << 20
"""Memory of SQLite's engine in a node. Statements that need more fail; those of the log get twice as much."""

MAX_SQL_QUERY_MEMORY_BYTES = 256 << 20
"""The same while queries are executed in steps: those that need more fail, so that writes have the rest."""

MAX_SQL_WAIT_MS = 2
"""Time for which a step of a statement waits for SQLite, which computes on a thread. Then other commands may run."""

MAX_TIME_ARGUMENT_BYTES = 1_000
"""An argument of a function of date and time. Bounds its time: what it computes cannot be interrupted."""

MAX_TRIMMED_CHARS = 1_000
"""Different characters that `trim()` removes. Bounds its time."""

MAX_PATCH_BYTES = 24 << 10
"""Arguments of `json_patch()`. Bounds its time, which grows with the product of their sizes."""

MAX_SQL_ROWS = 5_000
"""Rows that one statement writes. As many as MAX_CHANGES, which counts the entries of indexes too."""

MAX_SQL_VALUES_BYTES = 2 * MAX_RECORD_BYTES
"""Values that one statement reads to write them. All may be as they are already, and then the record has none."""

WRITE_ATTEMPTS = 5
"""Attempts at a statement that writes many rows: others may change what it has read, as it runs in slices."""

# Scripts

MAX_SCRIPT_BYTES = 64 << 10
"""Text of a Lua script. Bounds the time to compile it."""

MAX_SCRIPTS = 1_000
"""Lua scripts that a node keeps compiled, those used last. Bounds memory; others fail with `NOSCRIPT`, and are sent."""

MAX_SCRIPTS_BYTES = 16 << 20
"""Total size of these scripts, text and bytecode. Bounds memory."""

MAX_SCRIPT_MEMORY_BYTES = 4 << 20
"""Memory of one run of a script. Bounds the time of one instruction of Lua, such as a comparison of long strings."""

MAX_SCRIPT_ARGUMENT_BYTES = 1 << 20
"""Keys and arguments of one run of a script. They are part of its memory."""

# Procedures

MAX_PROCEDURES_BYTES = 1 << 20
"""Size of a file of procedures. Bounds the time to load it."""

MAX_PROCEDURE_NAME_BYTES = 100
"""Name of a procedure. It is part of a key, see MAX_KEY_BYTES."""

MAX_PROCEDURE_MS = 100
"""CPU time after which a procedure is ended that does not use `tx`, where MAX_EXEC_MS counts. Shorter than a lease."""

MAX_PROCEDURE_ITEMS = 50_000
"""Values in what a procedure returns, also in lists and dicts. Bounds the time to send it, and that at replicas."""

MAX_PROCEDURE_DEPTH = 900
"""Nested calls of a procedure. Replicas allow twice as many, so that none stops at what the leader has executed."""

# REPL.ONCE

ONCE_IDS = 1_000_000
"""Ids of REPL.ONCE in the store, the latest ones: at 30,000 writes a second, those of more than half a minute."""

ONCE_AGE_MS = 24 * 3600 * 1000
"""Age after which the store deletes an id of REPL.ONCE."""

ONCE_ID_BYTES = 128
"""Length of an id of REPL.ONCE. It is part of a key, see MAX_KEY_BYTES."""

# Clients

RESERVED_DESCRIPTORS = 256
"""Open files that are kept for Kafka, the store, HTTP and clients to be refused. `max_clients` is lowered to fit."""

LISTEN_BACKLOG = 128
"""Connections that wait to be accepted. Fewer than RESERVED_DESCRIPTORS, as all may be accepted at once."""

MAX_REQUEST_BYTES = 8 << 20
"""One request of a Redis client. Bounds memory for a connection."""

MAX_INLINE_BYTES = 64 << 10
"""One request of a Redis client in the inline format: the limit of Redis."""

MAX_REQUEST_ITEMS = 1 << 20
"""Arguments in one request of a Redis client: the limit of Redis."""

UNAUTHENTICATED_ITEMS = 10
"""Arguments in one request of a Redis client that has not authenticated: the limit of Redis."""

UNAUTHENTICATED_ITEM_BYTES = 16 << 10
"""One argument of a Redis client that has not authenticated: the limit of Redis."""

SLICE_MS = 5
"""Time for which commands of clients run before the event loop gets to everything else, such as heartbeats."""

MAX_LONG_WRITES = 4
"""Writes, and commands between BEGIN and COMMIT, that run in slices at once; others wait. Bounds the threads of SQL."""

STEPS_AT_ONCE = 2_000
"""Keys or fields that a read looks at before others may run. Longer ones begin again, and run in slices."""

MAX_LONG_READS = 4
"""Reads of more than STEPS_AT_ONCE keys or fields at the same time; others wait. Bounds memory."""

MAX_STEPS_IN_EXEC = 5_000
"""Keys or fields that KEYS, HGETALL and others look at in a transaction that also writes. Bounds the time of EXEC."""

MAX_PATTERNS = 16
"""Patterns of one CONFIG GET or PSUBSCRIBE. Bounds the time to compile them."""

MAX_WRITE_ITEMS = 15_000
"""Arguments of one command that is not a read, or of all between MULTI and EXEC. Bounds the time that it takes."""

MAX_CONNECTION_ITEMS = 1_000
"""Arguments of a command that concerns the connection or the server, as HELLO, COMMAND and SCRIPT. Bounds its time."""

MAX_EXEC_MS = 30
"""CPU time of the commands of a transaction that writes. Nothing else runs in between, as all see the same data."""

MAX_CHANGES = 5_000
"""Entries that one transaction changes. Bounds the time that the event loop of each node spends on the record."""

MAX_QUEUED_BYTES = 8 << 20
"""Total size of the commands between MULTI and EXEC. Bounds memory for a connection."""

MAX_PATTERN_BYTES = 512
"""Pattern of KEYS, SCAN and others. Bounds the time to compile it and to match it; keys are shorter."""

MAX_SCAN_COUNT = 1_000
"""Keys or fields that one SCAN or HSCAN looks at, also if COUNT is larger. Bounds the time that it takes."""

MAX_REPLY_BYTES = 64 << 20
"""One reply to a Redis client. Bounds memory; the command fails with an error."""

MAX_PENDING_REPLIES = 4096
"""Writes of one connection without an answer. Bounds memory; the node stops reading from the connection."""

MAX_PENDING_BYTES = 4 << 20
"""Answers of a connection that wait behind an unacknowledged write. Bounds memory; no further command runs."""

MAX_READY_BYTES = 1 << 20
"""Answers that a connection collects before it writes them to the socket. Bounds memory for a connection."""

MAX_UNPARSED_BYTES = 256 << 10
"""Requests that a connection reads ahead while it waits. Bounds memory, and the time to parse them at once."""

MAX_UNREAD_BYTES = 8 << 20
"""Messages to a subscriber that it has not read: the soft limit of Redis. The node closes the connection."""

MAX_EVENT_PATTERNS = 100
"""Patterns of keyspace notifications at a node, however many clients subscribe to each. Bounds the time of an event."""

MAX_EVENT_QUEUE_BYTES = 64 << 20
"""Applied changes whose keyspace notifications wait to be sent. Bounds memory; the node disconnects the subscribers."""

EVENT_SLICE_MS = 20
"""Time instead of SLICE_MS for which keyspace notifications are sent at once if a quarter of that waits."""

EVENT_BYTES_AT_ONCE = 1 << 20
"""Keyspace notifications that are written to sockets at once. Bounds the time that the event loop spends on it."""

JOINED_EVENT_BYTES = 16 << 10
"""Keyspace notifications that are joined for each subscriber. Fewer would take more system calls, more would wait."""

MAX_XREAD_COUNT = 1_000
"""Changes in one reply of XREAD or XRANGE, also without COUNT or if it is larger. Bounds the time that it takes."""

MAX_XREAD_BYTES = 256 << 10
"""Records that one XREAD or XRANGE decodes, or one larger record. Bounds the time that it takes."""

RECENT_BYTES = 16 << 20
"""Records whose changes a node keeps for XREAD, the latest ones. Bounds memory; the log and its topics have all."""

RECENT_RECORDS = 100_000
"""The same in records. Bounds the memory that small records take besides their bytes."""

MAX_CURSORS = 100_000
"""SCAN cursors that a node remembers, the latest ones. Bounds memory."""

MAX_BOUND = 10**9
"""Milliseconds (11 days) or records of the read level `bounded`. A larger bound is rejected as a mistake."""

MAX_TIMING_MS = 24 * 3600 * 1000
"""Any of the times in `[timing]` that all nodes follow. A longer one is rejected as a mistake."""

MAX_BODY_BYTES = 64 << 10
"""Body of an HTTP request. Bounds memory; requests to change a setting are far smaller."""

MAX_JSON_FIELDS = 1_000
"""Fields of a hash that GET /keys answers. Bounds the time that the event loop spends on it."""

MAX_HTTP_CONNECTIONS = 128
"""Open HTTP connections; others are closed at once. Fewer than RESERVED_DESCRIPTORS."""

REPLICATION_BACKLOG_BYTES = 4 << 20
"""Recent records that a node keeps in memory for its followers. Bounds memory; see also `node.backlog_mb`."""

MAX_BACKLOG_MB = 1 << 20
"""Largest `node.backlog_mb`. A larger one is rejected as a mistake."""

MAX_MESSAGE_BYTES = 16 << 20
"""One message from another node. Bounds memory; a batch of records is far smaller."""

MAX_ACKS = 1_000
"""Acks in one REPL.ACK. Bounds the time that the event loop spends on it; more acks are sent in several commands."""

FEED_BYTES = 1 << 20
"""A follower that is behind is sent more records only while it has less than this unread. Bounds memory."""

MAX_FANOUT = 64
"""Largest `node.fanout`. Bounds the time that a node spends on sending records."""

MAX_STREAM_BYTES = 16 << 20
"""Records sent to a follower that it has not read. Bounds memory; the sender closes the connection."""

RECEIVED_BYTES = 4 << 20
"""Records that a follower has received and not applied. Bounds memory; it stops reading from the connection."""

EXPIRED_ROWS_AT_ONCE = 200
"""Expired rows that the leader deletes at once, a record each. Bounds the time that the event loop spends on it."""

# The change stream and sinks

TRANSACTION_CHANGES = 5_000
"""Changes in one Kafka transaction of the change stream; a record is never divided. Bounds the latency."""

PRODUCER_QUEUE_BYTES = 64 << 20
"""Messages of a publisher that are not sent yet. Bounds memory: then it waits. Larger than any message."""

EFFECTS_BYTES = 256 << 20
"""Space in the store of a node for the changes of the last commands in the log: the change stream publishes them."""

BACKFILL_BYTES = 8 << 20
"""Content of a snapshot in one Kafka transaction of the change stream, or one larger entry. Bounds memory."""

TRANSACTION_ENTRIES = 1_000
"""Entries of the log that the publisher of the change stream reads at once. Bounds memory, with FETCH_BYTES."""

MAX_STREAM_PARTITIONS = 1_000
"""Partitions of the topic of changes. A larger number is rejected as a mistake: each costs Kafka files and memory."""

MAX_RETENTION_MS = 100 * 365 * 24 * 3600 * 1000
"""Retention of the topic of changes. A longer one is rejected as a mistake."""

READ_CHANGES = 500
"""Changes that a consumer of the change stream takes at once. Bounds memory, and what it repeats after a crash."""

DECODED_BYTES = 16 << 20
"""Memory of the records that a node has decoded for XREAD and keeps for others that read the same."""

SINK_BATCH_CHANGES = 5_000
"""Changes that a sink writes at once; `--batch` sets another number. Bounds the time of a transaction of PostgreSQL."""

SINK_BATCH_BYTES = 16 << 20
"""Total size of such a batch, to which one more fetch may be added. Bounds memory."""

SINK_REQUEST_CHANGES = 500
"""Changes in one request of a sink that posts them to an HTTP endpoint. Bounds what is sent again after a failure."""

SINK_REQUEST_BYTES = 1 << 20
"""Total size of the changes in one such request; a larger change is alone. Endpoints limit the size of a request."""

SINK_GROUP_CHANGES = 50_000
"""Changes in one row group of a file of Parquet. Bounds memory."""

SINK_GROUP_BYTES = 32 << 20
"""Total size of the changes in one row group. Bounds memory."""

# Kafka

MAX_BATCH_BYTES = 4 << 20
"""One Kafka record batch, which is one append. Larger than any record, smaller than MAX_MESSAGE_BYTES."""

FETCH_BYTES = 4 << 20
"""Records that a node fetches from Kafka at once. Bounds memory: a reader keeps two responses."""

SLICE_ENTRIES = 2_000
"""Fetched records that a node decodes at once. Bounds the time that the event loop spends on it, to about 3 ms."""

SLICE_BYTES = 250_000
"""Fetched records that a node takes at once, or one larger record. Bounds the time as above."""

SLICE_CHANGES = 2_000
"""Changes after which a node that applies records lets other tasks run. Bounds the time, to about 25 ms."""

COMMAND_CHANGES = 10
"""So many changes could be applied in the time that a command takes, besides those that it makes and rows it reads."""

SLICE_STEPS = 500
"""Steps in which a node executes commands of the log before other tasks run: rows, or what takes as long."""

AUDIT_ENTRIES = 128
"""So many entries are audited before other tasks run, about 0.15 ms: each 5 ms (`intervals.AUDIT_PAUSE_MS`) a slice."""

AUDIT_BYTES = 65_536
"""The same for the size of their values."""

COMPARISON_RESERVE_BYTES = 2 << 30
"""Address space that a node reserves for the pages that are replaced during `replicator verify`."""

COMPARED_RANGES = 32
"""Ranges of keys in one request of `replicator verify` to a node. Bounds the size of the request, and the work."""

COMPARED_RANGE_ENTRIES = 4_096
"""Entries in such a range. Bounds the work of a request."""

COMPARED_ENTRIES = 1_000
"""Entries that a node lists in one answer, for a range that differs. Bounds the size of the answer."""

MAX_MESSAGE_BYTES = 16 << 20
"""`max.message.bytes` of the log's topic. A multiple of MAX_BATCH_BYTES, so that Kafka accepts every batch."""

LOCAL_BROKER_MESSAGE_BYTES = 32 << 20
"""`message.max.bytes` of the Kafka that `replicator broker start` runs. Larger than MAX_MESSAGE_BYTES."""

# Snapshots

PART_BYTES = 16 << 20
"""Size of the parts in which a snapshot is stored. Bounds memory, and what is sent again after an interruption."""

TRANSFERS = 4
"""Parts that are transferred at the same time. Hides the latency of object stores; each takes 2 PART_BYTES."""

MAX_MANIFEST_BYTES = 4 << 20
"""Size of the manifest of a snapshot: that of one of about 500 GB, which has 30,000 parts."""
