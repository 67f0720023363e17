"""Each read keeps what its level promises, and none shows anything but a prefix of the log."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from replicator.position import Offset
from replicator.protocol.levels import LevelKind
from replicator.protocol.timing import MAX_DRIFT
from replicator.store.keys import encode_key
from replicator.testing.checks.canonical import Canonical
from replicator.testing.history import History

TABLE = "kv"


def check(history: History, canonical: Canonical, landed_s: Sequence[float]) -> Iterator[str]:
    """`landed_s`: when each entry of the log came to be there, by offset."""
    for read in history.reads(*LevelKind):
        expected = canonical.value_at(encode_key(TABLE, read.key, b""), read.offset)
        if read.value != expected:
            yield f"no prefix of the log: at offset {read.offset} there is {expected!r}, but {read}"
    for read in history.reads(LevelKind.SESSION):
        assert read.level is not None and read.level.token is not None
        if read.offset < read.level.token.offset:
            yield f"a session went back from offset {read.level.token.offset} to {read.offset}: {read}"
    for read in history.reads(LevelKind.BOUNDED):
        assert read.level is not None
        since_s = read.called_s - read.level.max_age_ms / 1000 * (1 + MAX_DRIFT)
        owed = Offset(sum(it <= since_s for it in landed_s) - 1 - read.level.max_records)
        # a leader may know that what is still on its way does not touch the key
        if read.offset < owed and canonical.value_at(encode_key(TABLE, read.key, b""), owed) != read.value:
            yield f"staler than its bound: at offset {read.offset}, and {owed} was there in time: {read}"
