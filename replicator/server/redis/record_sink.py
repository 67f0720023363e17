"""The sender's end of a stream of records: a connection after REPL.FOLLOW (messages: `server.record_stream`)."""

from __future__ import annotations

from functools import lru_cache

from replicator.limits import MAX_STREAM_BYTES
from replicator.node.committed_batch import CommittedBatch
from replicator.node.node_link import StreamSignal
from replicator.server.redis.context import ConnectionContext
from replicator.server.redis.resp import Encoded, Simple

GETACK = Simple(StreamSignal.GETACK.value)
HEARTBEAT = Simple(StreamSignal.HEARTBEAT.value)


class RedisRecordSink:
    """`node.backlog.RecordSink`."""

    def __init__(self, connection: ConnectionContext) -> None:
        self._connection = connection

    def send(self, batch: CommittedBatch) -> None:
        self._connection.push(encode_batch(batch), MAX_STREAM_BYTES)

    def request_ack(self) -> None:
        self._connection.push(GETACK, MAX_STREAM_BYTES)

    def send_heartbeat(self) -> None:
        self._connection.push(HEARTBEAT, MAX_STREAM_BYTES)

    @property
    def unsent_bytes(self) -> int:
        return self._connection.unsent_bytes

    def close(self) -> None:
        self._connection.close()


@lru_cache(maxsize=1)  # it is sent to all followers, one after the other
def encode_batch(batch: CommittedBatch) -> Encoded:
    parts = [b"*%d\r\n:%d\r\n" % (len(batch.payloads) + 1, batch.base)]
    parts += [b"$%d\r\n%b\r\n" % (len(payload), payload) for payload in batch.payloads]
    return Encoded(b"".join(parts))
