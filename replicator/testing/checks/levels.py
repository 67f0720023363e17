"""Each read meets its read level, and returns the state after some prefix of the log."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from replicator.position import Offset
from replicator.protocol.levels import LevelKind
from replicator.protocol.timing import MAX_DRIFT
from replicator.server.keyspace import KEYSPACE_TABLE
from replicator.store.keys import encode_key
from replicator.testing.checks.canonical import Canonical
from replicator.testing.history import History


def check(history: History, canonical: Canonical, appended_s: Sequence[float]) -> Iterator[str]:
    """`appended_s`: when each entry was appended to the log, by offset."""
    for read in history.reads(*LevelKind):
        expected = canonical.value_at(encode_key(KEYSPACE_TABLE, read.key, b""), read.offset)
        if read.value != expected:
            yield f"not a prefix of the log: the value at offset {read.offset} is {expected!r}: {read}"
    for read in history.reads(LevelKind.SESSION):
        assert read.level is not None and read.level.token is not None
        if read.offset < read.level.token.offset:
            yield f"a session read went backwards from offset {read.level.token.offset} to {read.offset}: {read}"
    for read in history.reads(LevelKind.BOUNDED):
        assert read.level is not None
        since_s = read.called_s - read.level.max_age_ms / 1000 * (1 + MAX_DRIFT)
        required = canonical.before(Offset(sum(it <= since_s for it in appended_s) - 1), read.level.max_records)
        # a leader may know that the writes in flight do not change the key
        if (
            read.offset < required
            and canonical.value_at(encode_key(KEYSPACE_TABLE, read.key, b""), required) != read.value
        ):
            yield f"staler than its bound: read at offset {read.offset} instead of {required}: {read}"
