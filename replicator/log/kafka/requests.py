"""Requests about one partition: produce, fetch, list offsets, and the size of its log.

They are packed and unpacked as a whole: aiokafka's own requests, which it encodes field by field, cost several times as
much.

The layouts are those of Kafka's protocol guide. The versions are those that Kafka 2.1 began with: a reader says which
leader epoch it knows, and a leader of another epoch refuses the request (KIP-320). So what a reader is given is of the
leader that it was connected to, even if the broker has been restarted since that one was looked up.
"""

from __future__ import annotations

from struct import Struct
from typing import NamedTuple

from replicator.log.kafka.authorization import CLUSTER_AUTHORIZATION_FAILED
from replicator.position import Offset

PARTITION = 0
LATEST = -1
EARLIEST = -2

_NO_REPLICA = -1
_READ_UNCOMMITTED = 0

_LENGTH = Struct(">i")
_ACKS_AND_TIMEOUT = Struct(">hi")
_FETCH_LIMITS = Struct(">iiiibii")  # replica, wait, least bytes, most bytes, isolation level, session, its epoch
_FETCH_FROM = Struct(">iiqqi")  # partition, leader epoch, offset, start of the log, most bytes
_LIST_FROM = Struct(">ib")  # replica, isolation level
_TIMESTAMP = Struct(">iiq")  # partition, leader epoch, timestamp
_NO_TRANSACTION = b"\xff\xff"
_NO_SESSION = 0, -1
_NO_LOG_START = -1
_NOTHING_FORGOTTEN = b"\0\0\0\0"

_PRODUCED = Struct(">hq")  # error code, base offset
_FETCH_FAILED = Struct(">ih")  # throttle time, error code of the whole request
_SESSION_BYTES = 4
_FETCHED = Struct(">hqqqi")  # error code, high watermark, last stable offset, start of the log, aborted transactions
_LISTED = Struct(">hqq")  # error code, timestamp, offset
_THROTTLE_BYTES = 4
_ABORTED_TRANSACTION_BYTES = 16
_ERROR_CODE = Struct(">h")
_LOG_SIZE = Struct(">qq?")  # size, lag of the offset, whether the broker moves the log there


class Produced(NamedTuple):
    code: int
    base_offset: Offset


class FetchedRecords(NamedTuple):
    code: int
    records: bytes  # batches, of which the last one may be truncated
    throttle_ms: int = 0  # before the next request, as a quota was exceeded; there may be no records for that reason


class ListedOffset(NamedTuple):
    code: int
    offset: Offset


class LogSize(NamedTuple):
    code: int
    size_bytes: int


class _Request:
    API_KEY: int
    API_VERSION: int

    def __init__(self, topic: bytes) -> None:
        self._topic = topic

    def _about_topic(self) -> bytes:
        """The beginning of an array of topics with one partition; the partition follows."""
        return b"\0\0\0\1" + len(self._topic).to_bytes(2, "big") + self._topic + b"\0\0\0\1"

    def _partition_at(self, topics_at: int) -> int:
        """Where the answer about the partition begins, behind its number, if the array of topics begins there."""
        return topics_at + 4 + 2 + len(self._topic) + 4 + 4


class Produce(_Request):
    """Append one encoded batch."""

    API_KEY, API_VERSION = 0, 3

    def __init__(self, topic: bytes, batch: bytes, *, acks: int, timeout_ms: int) -> None:
        super().__init__(topic)
        self.batch = batch
        self._acks_and_timeout = _ACKS_AND_TIMEOUT.pack(acks, timeout_ms)

    def encode(self) -> bytes:
        head = _NO_TRANSACTION + self._acks_and_timeout + self._about_topic() + b"\0\0\0\0"
        return b"".join((head, _LENGTH.pack(len(self.batch)), self.batch))

    def decode(self, frame: bytes, at: int) -> Produced:
        """The answer begins at `at`."""
        code, base_offset = _PRODUCED.unpack_from(frame, self._partition_at(at))
        return Produced(code, Offset(base_offset))


class Fetch(_Request):
    """The batches from the one that contains `offset` on, or none if there are none within `max_wait_ms`."""

    API_KEY, API_VERSION = 1, 9

    def __init__(self, topic: bytes, offset: Offset, *, epoch: int, max_wait_ms: int, max_bytes: int) -> None:
        super().__init__(topic)
        self.offset = offset
        self.epoch = epoch  # of the leader
        self.max_wait_ms = max_wait_ms
        self._max_bytes = max_bytes

    def encode(self) -> bytes:
        limits = _FETCH_LIMITS.pack(_NO_REPLICA, self.max_wait_ms, 1, self._max_bytes, _READ_UNCOMMITTED, *_NO_SESSION)
        start = _FETCH_FROM.pack(PARTITION, self.epoch, self.offset, _NO_LOG_START, self._max_bytes)
        return b"".join((limits, self._about_topic(), start, _NOTHING_FORGOTTEN))

    def decode(self, frame: bytes, at: int) -> FetchedRecords:
        """The answer begins at `at`."""
        throttle_ms, failed = _FETCH_FAILED.unpack_from(frame, at)
        at += _FETCH_FAILED.size + _SESSION_BYTES
        [topics] = _LENGTH.unpack_from(frame, at)
        if failed or not topics:
            return FetchedRecords(failed, b"", throttle_ms)
        at = self._partition_at(at)
        code, _, _, _, aborted = _FETCHED.unpack_from(frame, at)
        at += _FETCHED.size + max(aborted, 0) * _ABORTED_TRANSACTION_BYTES
        [size] = _LENGTH.unpack_from(frame, at)
        at += _LENGTH.size
        return FetchedRecords(code, frame[at : at + max(size, 0)], throttle_ms)


class ListOffsets(_Request):
    """The offset of the first entry (`EARLIEST`), or the one after the last durable entry (`LATEST`)."""

    API_KEY, API_VERSION = 2, 4

    def __init__(self, topic: bytes, which: int, *, epoch: int) -> None:
        super().__init__(topic)
        self.which = which
        self.epoch = epoch  # of the leader

    def encode(self) -> bytes:
        return (
            _LIST_FROM.pack(_NO_REPLICA, _READ_UNCOMMITTED)
            + self._about_topic()
            + _TIMESTAMP.pack(PARTITION, self.epoch, self.which)
        )

    def decode(self, frame: bytes, at: int) -> ListedOffset:
        """The answer begins at `at`."""
        code, _, offset = _LISTED.unpack_from(frame, self._partition_at(at + _THROTTLE_BYTES))
        return ListedOffset(code, Offset(offset))


class DescribeLogDirs(_Request):
    """The size of the log on the disk of one broker."""

    API_KEY, API_VERSION = 35, 1

    def encode(self) -> bytes:
        return self._about_topic() + _LENGTH.pack(PARTITION)

    def decode(self, frame: bytes, at: int) -> LogSize:
        """The answer begins at `at`. It lists all folders of the broker, of which one has the log."""
        [folders] = _LENGTH.unpack_from(frame, at + _THROTTLE_BYTES)
        at += _THROTTLE_BYTES + _LENGTH.size
        for _ in range(folders):
            [code] = _ERROR_CODE.unpack_from(frame, at)
            at += _ERROR_CODE.size
            at += 2 + int.from_bytes(frame[at : at + 2], "big")
            [topics] = _LENGTH.unpack_from(frame, at)
            if code:
                return LogSize(code, 0)
            if topics:
                size_bytes, _, _ = _LOG_SIZE.unpack_from(frame, self._partition_at(at))
                return LogSize(0, size_bytes)
            at += _LENGTH.size
        return LogSize(CLUSTER_AUTHORIZATION_FAILED, 0)  # version 1 has no other way to say so


REQUESTS = (Produce, Fetch, ListOffsets)
"""Without which no node can run; `DescribeLogDirs` is for metrics only."""
PartitionRequest = Produce | Fetch | ListOffsets | DescribeLogDirs
