"""Whether a recorded history is one that the levels allow, given the log that it left behind.

Linearizability and the fate of each write are judged as in the simulator. What a read returned is told by its value:
values are unique, so each stands at one offset.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

from replicator.log.kafka.log import KafkaLog
from replicator.log.port import Log, Reader
from replicator.position import BEFORE_LOG, Offset
from replicator.protocol.levels import LevelKind
from replicator.protocol.timing import MAX_DRIFT
from replicator.records.codec import RecordCodec
from replicator.records.types import Suspend
from replicator.store.keys import encode_key
from replicator.testing.checks import linear, writes
from replicator.testing.checks.canonical import Canonical, read_log
from replicator.testing.history import History, Operation, OperationKind, Outcome, author_of
from tests.log_contract import read as read_entries
from tests.recorder import Read


@asynccontextmanager
async def reading(bootstrap: str, cluster: str, start: Offset) -> AsyncIterator[tuple[Log, Reader]]:
    log = await KafkaLog.open(bootstrap, cluster)
    reader = log.reader(start)
    try:
        yield log, reader
    finally:
        await reader.close()
        await log.close()


async def canonical_of(bootstrap: str, cluster: str) -> Canonical:
    """The cluster's log as it is now, each record judged. Raises `LogDamage`."""
    async with reading(bootstrap, cluster, Offset(0)) as (log, reader):
        return read_log(await read_entries(reader, await log.end()), RecordCodec())


async def announced(key: bytes, bootstrap: str, cluster: str, start: Offset) -> Offset:
    """Where the first `Suspend` of the key stands at or behind `start`, once it does."""
    codec = RecordCodec()
    async with reading(bootstrap, cluster, start) as (_, reader):
        while True:
            for offset, payload in await reader.next():
                body = codec.decode(payload, b"").body
                if isinstance(body, Suspend) and _stored(key) in body.keys:
                    return offset


def violations(history: History, canonical: Canonical) -> list[str]:
    reads = [it for it in history.reads(*LevelKind) if isinstance(it, Read)]
    return [
        *writes.check(history, canonical),
        *linear.check(history, frozenset(canonical.written)),
        *_prefixes(reads, canonical),
        *_sessions(history, canonical),
        *_tokens(reads, canonical),
        *_bounds(history, canonical),
    ]


def _prefixes(reads: list[Read], canonical: Canonical) -> Iterator[str]:
    """Every read shows what the log says of some offset at which the node's store stood meanwhile."""
    for read in reads:
        key = _stored(read.key)
        changes = canonical.values.get(key, [])
        shown = [value for offset, value in changes if read.least < offset <= read.offset]
        if read.value not in (canonical.value_at(key, read.least), *shown):
            yield f"no prefix of the log at offsets {read.least} to {read.offset}: {read}"


def _sessions(history: History, canonical: Canonical) -> Iterator[str]:
    """Session reads are never behind what their client has read and written before, at any level and node."""
    seen: dict[tuple[str, bytes], Offset] = defaultdict(lambda: BEFORE_LOG)
    for operation in history.operations:  # each client's in its own order
        if operation.outcome is not Outcome.OK:
            continue
        client = operation.name.rpartition(".")[0], operation.key
        stands = _stand(_written(operation), canonical)
        if operation.level and operation.level.kind is LevelKind.SESSION and stands < seen[client]:
            yield f"a session went back from offset {seen[client]} to {stands}: {operation}"
        seen[client] = max(seen[client], stands)


def _tokens(reads: list[Read], canonical: Canonical) -> Iterator[str]:
    """A session read is not behind its token, and the token that is given with a read is not behind the read."""
    for read in reads:
        stands = _stand(read.value, canonical)
        if stands > read.offset:
            yield f"a token of offset {read.offset} forgets what was read at {stands}: {read}"
        if read.level and read.level.token:
            owed = _stand(canonical.value_at(_stored(read.key), read.level.token.offset), canonical)
            if stands < owed:
                yield f"behind its token, at offset {stands} instead of {owed}: {read}"


def _bounds(history: History, canonical: Canonical) -> Iterator[str]:
    """Bounded reads show what was acknowledged so long before they were called."""
    done = [it for it in history.writes() if it.outcome is Outcome.OK]
    for read in history.reads(LevelKind.BOUNDED):
        assert read.level is not None
        since_s = read.called_s - read.level.max_age_ms / 1000 * (1 + MAX_DRIFT)
        due = [_stand(_written(it), canonical) for it in done if it.key == read.key and it.answered_s < since_s]
        stands = _stand(read.value, canonical)
        if stands < max(due, default=BEFORE_LOG):
            yield f"staler than its bound, at offset {stands} instead of {max(due)}: {read}"


def _written(operation: Operation) -> bytes | None:
    """The value that the operation wrote or read."""
    return operation.value if operation.kind is OperationKind.READ else operation.after(None)


def _stand(value: bytes | None, canonical: Canonical) -> Offset:
    """Where it was written. What was never written is told by other checks."""
    name = author_of(value)
    return canonical.written.get(name, [BEFORE_LOG])[0] if name else BEFORE_LOG


def _stored(key: bytes) -> bytes:
    return encode_key("kv", key, b"")
