"""The fixed intervals of a running node: pauses between attempts, polling intervals and request timeouts.

They are not settings, because they affect neither safety nor what a client is promised: those times are in
`records.types.Timing` and `protocol.timing`. Intervals of other programs (client, local cluster, benchmarks) stay with
these programs.
"""

# Requests to Kafka

APPEND_TIMEOUT_MS = 2_000  # then the outcome of the append is unknown
OFFSETS_TIMEOUT_MS = 2_000
READER_TIMEOUT_MS = 5_000  # of failed fetches in a row, before a reader reports that Kafka is unavailable
FETCH_WAIT_MS = 500  # for which the broker holds a fetch open while there are no new records
ADMIN_TIMEOUT_S = 4.0
KAFKA_ANSWER_S = 1.0  # after which the status of a node that starts says that Kafka does not answer
TOPIC_TIMEOUT_S = 20.0  # until a new topic has a leader
TOPIC_POLL_S = 0.05
OFFSET_COMMIT_RETRY_S = 0.1  # of the applied offset, while its coordinator starts
OFFSETS_RETRY_S = 0.05
FETCH_RETRY_S = 0.02  # doubled after each failure
MAX_FETCH_RETRY_S = 0.2
IDENTITY_CHECK_MS = 2_000  # between two checks that the topic was not deleted and created again
BROKER_ANSWER_MS = 2_000  # for the answers of all brokers to a question about a topic, each over a new connection
OTHER_ANSWERS_MS = 100  # for those of the other brokers after the first one that suffices
LEADER_CHECK_MS = 2_000  # between two lookups without a failure: a former leader may answer without an error

# The change stream

TRANSACTION_TIMEOUT_S = 20.0  # of a publisher that has stopped, before Kafka aborts what it had begun
PUBLISHER_SESSION_MS = 6_000  # without a heartbeat, after which another node publishes: the least that Kafka allows
PROGRESS_S = 10.0  # between two commits of the progress while there are no changes to publish
STREAM_POLL_S = 2.0  # of the state of a change stream that is disabled, or that another node publishes
STREAM_LOOKUP_S = 3.0  # between two checks whether there is a change stream
PUBLISHER_REPORT_S = 1.0
REPORT_TIMEOUT_S = 5.0  # without a report, after which a publisher counts as unresponsive
EFFECT_POLL_S = 0.005  # between two looks whether the node has applied a command whose changes are published next
EFFECT_WAIT_S = 4.0  # for that, before another node publishes; less than REPORT_TIMEOUT_S
PUBLISHER_STOP_S = 0.5  # for a publisher to leave its group, when its node stops
PUBLISHER_RETRY_S = 1.0  # before a publisher that has failed is started again; doubled each time until it publishes
MAX_PUBLISHER_RETRY_S = 30.0
STREAM_CHECK_S = 5.0  # between two checks that the topics of a change stream were not deleted and created again
CREATION_S = 10.0  # for which a change stream may have a topic, but no settings

# The node

NODE_RETRY_MS = 500  # after Kafka did not answer, or the disk was full
END_CHECK_MS = 500  # between two requests for the end of a log that may be truncated
TRUNCATED_MS = 30_000  # after which it counts as truncated: Kafka's default of `replica.lag.time.max.ms`
PAST_TIMEOUT_S = 5.0  # for one record of the log, which is compared with a store or a snapshot
SNAPSHOT_POLL_MS = 5_000  # until there is a snapshot from which a damaged store can be rebuilt, or space for it
TIMING_POLL_MS = 1_000  # of waits that depend on the timing, which may change meanwhile
STATUS_END_MS = 250  # for the broker to report the end of the log before a status is answered without it
SLOW_END_MS = 50  # a broker that takes no longer to report the end of the log is not slow, however short the heartbeats
RESOLVE_RETRY_MS = 50  # after the first claim of a leader that resolves an append; doubled after each further one
MAX_RESOLVE_RETRY_MS = 400
ELIGIBLE_POLL_MS = 10  # until the node may start elections
REFUSED_PAUSE_MS = 100  # after the log refused an append
ACK_RETRY_MS = 200
ASYNC_ACK_MS = 20  # between two acks of an async replica, which no write waits for
STREAMING_ACK_MS = 200  # between two acks on the ack topic while acks go over a stream to the leader
OFFSET_COMMIT_MS = 5_000  # between two commits of the applied offset: Kafka's default of `auto.commit.interval.ms`
REFUSED_OFFSET_COMMIT_MS = 60_000  # after Kafka refused one
OUTAGE_LOG_S = 30.0  # between two log messages about a failure that repeats
STREAM_RETRY_MS = 200  # after the first attempt to get a stream from a leader; doubled after each further one
MAX_STREAM_RETRY_MS = 5_000
STREAM_OPEN_TIMEOUT_MS = 1_000  # for the reply to REPL.FOLLOW
STREAM_GRACE_MS = 50  # to read what has arrived, after this process was busy for longer than the timeout of the stream
FEED_POLL_MS = 2  # until a follower that is behind has read what it was sent
BEHIND_CHECK_MS = 1_000  # between two comparisons of what an upstream has sent with the end of the log
AWAITED_MS = 100  # of a stream without records, while a task waits for an offset that is in the log
REVIEW_MS = 100  # of unresponsive and joining replicas, and of overdue writes
CHECKPOINT_MS = 5_000
COMPARISON_TIMEOUT_S = 30.0  # without a request, after which a node ends a comparison of the stores
COMPARISON_SLICE_MS = 1  # between two slices of such a comparison
AUDIT_MS = CHECKPOINT_MS // 2  # between the beginnings of two audits of the store
AUDIT_PAUSE_MS = 5  # between two slices of an audit
CATCH_UP_TIMEOUT_MS = 10_000  # of a successor, before the leader stops sending writes
STOP_CATCH_UP_TIMEOUT_MS = 200  # the same, of a leader that stops; then it tries the next candidate
STOP_TRANSFER_TIMEOUT_MS = 500  # in all, of a leader that stops
DRAIN_TIMEOUT_MS = 2_000  # for the acks of what is in flight, before leadership is transferred
LEASE_POLL_MS = 2  # of a read that waits for the lease
BARRIER_PAUSE_MS = 20  # between two barriers of a node that cannot ask the leader
ELECTION_RETRY_MS = 20  # of a candidate that has not read the end of the log yet
EXPIRY_POLL_MS = 50

# Snapshots

SNAPSHOT_REVIEW_S = 10.0  # between two looks at the repository by a snapshotter
MAX_SNAPSHOT_RETRY_S = 300.0  # the same after failures: the pause is doubled after each, up to this
REPOSITORY_LOOK_S = 60.0  # the same by other nodes, for their metrics
RESTORE_POLL_S = 0.02  # of a node whose store another process restores
UNFINISHED_UPLOAD_S = 24 * 3600  # after which an upload to which nothing was added is deleted

# Servers

AUTH_TIMEOUT_S = 10.0  # for a Redis client to authenticate
HTTP_TIMEOUT_S = 10.0  # for an HTTP client to send its next request, and then for its body
IDLE_CHECK_S = 1.0  # between two checks for idle clients
KEEPALIVE_S = 300  # without bytes, before TCP asks whether the client still exists: as in Redis

STATE_POLL_S = 0.02  # until the node serves and can register
REGISTRATION_RETRY_S = 0.2
REGISTRATION_TIMEOUT_S = 5.0
REPORTS_TIMEOUT_MS = 300  # for the leader to report the state of its replicas to another node
XREAD_CHECK_S = 5.0  # of a blocked XREAD, between two checks that the store can still be read
TOPOLOGY_POLL_S = 0.05  # while clients subscribe to events of Redis Sentinel
SERVICE_STATUS_S = 0.1  # between two looks at the state of the process, for its service manager
STOP_TIMEOUT_S = 0.7  # for replies to clients of either server when the node stops
