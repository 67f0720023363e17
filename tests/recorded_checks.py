"""Checks a recorded history against the read levels, given the log that the cluster wrote meanwhile.

The outcome of each write is checked as in the simulator. Values are unique, so the value that a read returned
determines the offset at which it was written.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

from replicator.errors import LogDamage
from replicator.log.kafka.log import KafkaLog
from replicator.log.port import Log, Reader
from replicator.position import BEFORE_LOG, Offset
from replicator.protocol.levels import LevelKind
from replicator.protocol.timing import MAX_DRIFT
from replicator.records.codec import RecordCodec
from replicator.records.types import Suspend
from replicator.store.keys import encode_key
from replicator.testing.checks import writes
from replicator.testing.checks.canonical import Canonical, end_of, read_log
from replicator.testing.history import Outcome, mark_of
from tests import linear
from tests.log_contract import read as read_entries
from tests.recorder import Read
from tests.register_history import History, Operation, OperationKind


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
    """A replay of the cluster's log up to its current end. Raises `LogDamage`."""
    async with reading(bootstrap, cluster, Offset(0)) as (log, reader):
        canonical = read_log(await read_entries(reader, await log.end()), RecordCodec())
    if canonical.damage:
        raise LogDamage(canonical.damage)
    return canonical


async def suspend_offset(key: bytes, bootstrap: str, cluster: str, start: Offset) -> Offset:
    """Wait for the first `Suspend` of the key at or after `start`. Returns its offset."""
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
        *writes.check(history.writes(), canonical),
        *linear.check(history, frozenset(canonical.marked)),
        *_prefixes(reads, canonical),
        *_sessions(history, canonical),
        *_tokens(reads, canonical),
        *_bounds(history, canonical),
    ]


def _prefixes(reads: list[Read], canonical: Canonical) -> Iterator[str]:
    """Every read returns the value at some offset that the node's store had applied during the read."""
    for read in reads:
        key = _stored(read.key)
        changes = canonical.values.get(key, [])
        shown = [value for place, value in changes if read.least < place.offset <= read.offset]
        if read.value not in (canonical.value_at(key, end_of(read.least)), *shown):
            yield f"not a prefix of the log at offsets {read.least} to {read.offset}: {read}"


def _sessions(history: History, canonical: Canonical) -> Iterator[str]:
    """Session reads are never older than what their client has read and written before, at any level and node."""
    seen: dict[tuple[str, bytes], Offset] = defaultdict(lambda: BEFORE_LOG)
    for operation in history.operations:  # in the order of each client
        if operation.outcome is not Outcome.OK:
            continue
        client = operation.name.rpartition(".")[0], operation.key
        at = _offset(_written(operation), canonical)
        if operation.level and operation.level.kind is LevelKind.SESSION and at < seen[client]:
            yield f"a session read went backwards from offset {seen[client]} to {at}: {operation}"
        seen[client] = max(seen[client], at)


def _tokens(reads: list[Read], canonical: Canonical) -> Iterator[str]:
    """A session read is not older than its token, and the token taken after a read covers the read."""
    for read in reads:
        at = _offset(read.value, canonical)
        if at > read.offset:
            yield f"a token of offset {read.offset} does not cover the read at {at}: {read}"
        if read.level and read.level.token:
            required = _offset(canonical.value_at(_stored(read.key), end_of(read.level.token.offset)), canonical)
            if at < required:
                yield f"behind its token, at offset {at} instead of {required}: {read}"


def _bounds(history: History, canonical: Canonical) -> Iterator[str]:
    """Bounded reads include every write that was acknowledged longer ago than the bound."""
    done = [it for it in history.writes() if it.outcome is Outcome.OK]
    for read in history.reads(LevelKind.BOUNDED):
        assert read.level is not None
        since_s = read.called_s - read.level.max_age_ms / 1000 * (1 + MAX_DRIFT)
        due = [_offset(_written(it), canonical) for it in done if it.key == read.key and it.answered_s < since_s]
        at = _offset(read.value, canonical)
        if at < max(due, default=BEFORE_LOG):
            yield f"staler than its bound, at offset {at} instead of {max(due)}: {read}"


def _written(operation: Operation) -> bytes | None:
    """The value that the operation wrote or read."""
    return operation.value if operation.kind is OperationKind.READ else operation.after(None)


def _offset(value: bytes | None, canonical: Canonical) -> Offset:
    """Where the value was written. Other checks report values that were never written."""
    mark = mark_of(value)
    places = canonical.marked.get(mark) if mark else None
    return places[0].offset if places else BEFORE_LOG


def _stored(key: bytes) -> bytes:
    return encode_key("kv", key, b"")
