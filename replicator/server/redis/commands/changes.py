"""XREAD, XRANGE and XINFO of the stream of changes: what this node has applied lately (`node.recent_records`).

The key names the changes in these commands only; to all others it is a key like any other.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import Callable
from typing import NamedTuple, cast

from replicator.errors import BadRequest, ChangesTrimmed, TransactionTooLarge, WrongType
from replicator.intervals import XREAD_CHECK_S
from replicator.limits import MAX_STEPS_IN_EXEC, MAX_XREAD_BYTES, MAX_XREAD_COUNT
from replicator.node.recent_records import RecentRecords
from replicator.position import Offset
from replicator.server.backend import Backend
from replicator.server.keyspace import Keyspace
from replicator.server.redis.change_ids import LAST_PLACE, ChangeId, encode_entry, parse_id
from replicator.server.redis.command import Args, Command, CommandKind
from replicator.server.redis.commands.registry import (
    NOT_AN_INTEGER,
    SYNTAX,
    control,
    integer,
    wrong_arity,
)
from replicator.server.redis.context import ConnectionContext
from replicator.server.redis.resp import QUEUED, Encoded, NullArray, Reply
from replicator.server.redis.turns import Budget
from replicator.steps import Steps

CHANGES = b"replicator:changes"

_END = ChangeId(LAST_PLACE, LAST_PLACE)


class _ReadArgs(NamedTuple):
    """The arguments of XREAD."""

    after: ChangeId | None  # None: only the last change is read; `_END`: none is, as no key is that of the changes
    others: list[bytes]  # the other keys: there are no other streams
    limit: int
    block_ms: int | None  # None: do not wait


class _RangeArgs(NamedTuple):
    """The arguments of XRANGE."""

    key: bytes
    first: ChangeId | None  # None: the first one that is kept
    last: ChangeId
    limit: int


@control("xread", -4)
def xread(connection: ConnectionContext, args: Args) -> None:
    """XREAD [COUNT n] [BLOCK ms] STREAMS replicator:changes id: what was applied here after that change."""
    if not _queue(connection, _XREAD_IN_EXEC, args) and not connection.wait_for_own_writes(args):
        connection.wait_for(_answer_read(connection, _parse_read(args, connection.server.backend.recent)))


@control("xrange", -4)
def xrange(connection: ConnectionContext, args: Args) -> None:
    """XRANGE replicator:changes first last [COUNT n]"""
    if not _queue(connection, _XRANGE_IN_EXEC, args) and not connection.wait_for_own_writes(args):
        connection.wait_for(_answer(connection, _in_range(connection.server.backend, _parse_range(args))))


@control("xinfo", -2)
def xinfo(connection: ConnectionContext, args: Args) -> None:
    """XINFO STREAM replicator:changes: the first and the last change that this node keeps."""
    if not _queue(connection, _XINFO_IN_EXEC, args) and not connection.wait_for_own_writes(args):
        connection.wait_for(_answer(connection, _info(connection.server.backend, args)))


def _queue(connection: ConnectionContext, command: Command, args: Args) -> bool:
    """Whether the connection is within MULTI. Raises `BadRequest`."""
    multi = connection.multi
    if not multi.open:
        return False
    try:
        multi.queue(command, args)
    except BadRequest:
        multi.abort()
        raise
    connection.reply(QUEUED)
    return True


# The arguments


def _parse_read(args: Args, recent: RecentRecords) -> _ReadArgs:
    limit, block_ms, at = MAX_XREAD_COUNT, None, 1
    while at < len(args):
        word = args[at].lower()
        if word == b"streams":
            break
        if word == b"group":
            raise BadRequest("The GROUP option is only supported by XREADGROUP. You called XREAD instead.")
        if word not in (b"count", b"block") or at + 1 == len(args):
            raise BadRequest(SYNTAX)
        if word == b"count":
            limit = _limit(args[at + 1])
        else:
            block_ms = integer(args[at + 1], "timeout is not an integer or out of range")
            if block_ms < 0:
                raise BadRequest("timeout is negative")
        at += 2
    streams = args[at + 1 :]
    if not streams:
        raise BadRequest(SYNTAX)
    if len(streams) % 2:
        raise BadRequest("Unbalanced XREAD list of streams: for each stream key an ID or '$' must be specified.")
    keys, ids = streams[: len(streams) // 2], streams[len(streams) // 2 :]
    after: ChangeId | None = _END
    for key, id in zip(keys, ids, strict=True):
        asked = ChangeId(recent.end, LAST_PLACE) if id == b"$" else None if id == b"+" else parse_id(id)
        if key == CHANGES:
            after = asked
    others = [key for key in keys if key != CHANGES]
    if len(keys) - len(others) > 1:
        raise BadRequest(f"one XREAD reads {CHANGES.decode()} once")
    return _ReadArgs(after, others, limit, block_ms)


def _parse_range(args: Args) -> _RangeArgs:
    limit = MAX_XREAD_COUNT
    first = _first(args[2])
    last = _END if args[3] == b"+" else _bound(args[3], LAST_PLACE, -1)
    if args[4:]:
        if len(args) != 6 or args[4].lower() != b"count":
            raise BadRequest(SYNTAX)
        number = integer(args[5])
        limit = min(number, MAX_XREAD_COUNT) if number > 0 else 0
    return _RangeArgs(args[1], first, last, limit)


def _limit(text: bytes) -> int:
    """A limit of 0 or less is none in Redis."""
    number = integer(text, NOT_AN_INTEGER)
    return min(number, MAX_XREAD_COUNT) if number > 0 else MAX_XREAD_COUNT


def _first(text: bytes) -> ChangeId | None:
    if text == b"-":
        return None
    return _END if text == b"+" else _bound(text, 0, 1)


def _bound(text: bytes, place: int, step: int) -> ChangeId:
    """Of a range. With a parenthesis, the one next to it: `step` is 1 or -1. Raises `BadRequest`."""
    if text == b"-":
        return ChangeId(0, 0)
    if not text.startswith(b"("):
        return parse_id(text, place)
    offset, at = parse_id(text[1:], place)
    at += step
    if at < 0:
        offset, at = offset - 1, LAST_PLACE
    elif at > LAST_PLACE:
        offset, at = offset + 1, 0
    return ChangeId(offset, at)


# Outside of MULTI


async def _answer_read(connection: ConnectionContext, asked: _ReadArgs) -> None:
    server = connection.server
    backend, turns, loop = server.backend, server.turns, asyncio.get_running_loop()
    until_s = math.inf if not asked.block_ms else loop.time() + asked.block_ms / 1000
    after: ChangeId | None = None
    while True:
        backend.store()  # raises if it cannot be read
        if after is None:
            _check_types(backend, asked.others)
            after = await turns.run(_start(backend.recent, asked))
        found = await turns.run(_between(backend.recent, after, _END, asked.limit))
        if found or asked.block_ms is None or loop.time() >= until_s:
            connection.reply(_streams(connection, found))
            return
        after = max(after, ChangeId(backend.recent.end, LAST_PLACE))  # what was looked at need not be kept
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout_at(min(until_s, loop.time() + XREAD_CHECK_S)):
                await backend.recent.wait(_awaited(backend.recent, after))


async def _answer(connection: ConnectionContext, reading: Steps[Reply]) -> None:
    connection.reply(await connection.server.turns.run(reading))


# Within MULTI, where nothing waits


def _in_exec(read: Callable[[ConnectionContext, Args], Steps[Reply]]) -> Callable[[ConnectionContext, Args], Reply]:
    def run(connection: ConnectionContext, args: Args) -> Reply:
        reply = Budget(MAX_STEPS_IN_EXEC).finish(read(connection, args))
        if reply is None:
            raise TransactionTooLarge("too many changes to read within a transaction: read them before MULTI")
        return reply

    return run


def _read_at_once(connection: ConnectionContext, args: Args) -> Steps[Reply]:
    backend = connection.server.backend
    asked = _parse_read(args, backend.recent)
    _check_types(backend, asked.others)
    after = yield from _start(backend.recent, asked)
    found = yield from _between(backend.recent, after, _END, asked.limit)
    return _streams(connection, found)


_XREAD_IN_EXEC = Command(b"xread", -4, CommandKind.CONNECTION, _in_exec(_read_at_once))
_XRANGE_IN_EXEC = Command(
    b"xrange", -4, CommandKind.CONNECTION, _in_exec(lambda it, args: _in_range(it.server.backend, _parse_range(args)))
)

_XINFO_IN_EXEC = Command(
    b"xinfo", -2, CommandKind.CONNECTION, _in_exec(lambda it, args: _info(it.server.backend, args))
)


# The changes


def _in_range(backend: Backend, asked: _RangeArgs) -> Steps[Reply]:
    backend.store()  # raises if it cannot be read
    if asked.key != CHANGES:
        _check_types(backend, [asked.key])
        return []
    if not asked.limit:
        return NullArray()
    first, recent = asked.first, backend.recent
    after = ChangeId(recent.since, LAST_PLACE) if first is None else _just_before(first)
    found = yield from _between(recent, after, asked.last, asked.limit)
    return [*found]


def _info(backend: Backend, args: Args) -> Steps[Reply]:
    if args[1].lower() != b"stream":
        raise BadRequest(f"unknown subcommand '{args[1][:128].decode(errors='replace')}'. Try XINFO HELP.")
    if len(args) < 3:
        raise wrong_arity(b"xinfo|stream")
    if len(args) > 3:
        raise BadRequest(SYNTAX)
    if args[2] != CHANGES:
        _check_types(backend, [args[2]])
        raise BadRequest("no such key")
    backend.store()  # raises if it cannot be read
    recent = backend.recent
    first = yield from _between(recent, ChangeId(recent.since, LAST_PLACE), _END, 1)
    start = yield from _before_last(recent)
    last = yield from _between(recent, start, _END, 1)
    generated = ChangeId(recent.end, LAST_PLACE)
    deleted = ChangeId(0, 0) if recent.since < 0 else ChangeId(recent.since, LAST_PLACE)
    return {
        b"last-generated-id": str(generated).encode(),
        b"max-deleted-entry-id": str(deleted).encode(),
        b"first-entry": first[0] if first else None,
        b"last-entry": last[0] if last else None,
    }


def _just_before(first: ChangeId) -> ChangeId:
    return ChangeId(first.offset, first.place - 1) if first.place else ChangeId(first.offset - 1, LAST_PLACE)


def _start(recent: RecentRecords, asked: _ReadArgs) -> Steps[ChangeId]:
    """The id that the first change to read comes after; with `_END`, there is none to read."""
    return (yield from _before_last(recent)) if asked.after is None else asked.after


def _before_last(recent: RecentRecords) -> Steps[ChangeId]:
    """The id that only the last change comes after; the end, if none is kept."""
    at = end = recent.end
    while (record := recent.before(Offset(at + 1))) is not None:
        yield 0
        if record.changes:
            return _just_before(ChangeId(record.offset, record.changes[-1].place))
        at = Offset(record.offset - 1)
    return ChangeId(end, LAST_PLACE)


def _between(recent: RecentRecords, after: ChangeId, last: ChangeId, limit: int) -> Steps[list[Encoded]]:
    """The changes after one, up to `last`. Raises `ChangesTrimmed` if some of them are not kept any more."""
    found: list[Encoded] = []
    size = 0
    at = Offset(after.offset if after.place == LAST_PLACE else after.offset - 1)
    while True:
        if at < recent.since:
            if found:  # the others were dropped while this took turns
                return found
            raise (yield from _trimmed(recent, after))
        record = recent.after(at)
        if record is None or record.offset > last.offset or (found and size + record.size > MAX_XREAD_BYTES):
            return found
        at, size = record.offset, size + record.size
        yield 0
        for change in record.changes:
            if after < (at, change.place) <= last:
                found.append(Encoded(encode_entry(at, record.header.epoch, record.header.timestamp_us, change)))
                yield len(found[-1].data)
                if len(found) == limit:
                    return found


def _trimmed(recent: RecentRecords, after: ChangeId) -> Steps[ChangesTrimmed]:
    first: ChangeId | None = None
    at = recent.since
    while first is None and (record := recent.after(at)) is not None:
        yield 0
        at = max(record.offset, recent.since)
        if record.changes:
            first = ChangeId(record.offset, record.changes[0].place)
    kept = f"the earliest that it has is {first}" if first else "it has none, and $ reads new ones"
    return ChangesTrimmed(
        f"this node does not keep the changes after {after}: {kept}. Older ones are in the topic of changes, "
        "if there is one (`replicator stream tail`), and in the log"
    )


def _awaited(recent: RecentRecords, after: ChangeId) -> Offset:
    """The offset of the first record that may have the next change."""
    return Offset(max(recent.end + 1, after.offset + (after.place == LAST_PLACE)))


def _streams(connection: ConnectionContext, found: list[Encoded]) -> Reply:
    if not found:
        return NullArray()
    entries = cast(list[Reply], found)
    return [[CHANGES, entries]] if connection.protocol == 2 else {CHANGES: entries}


def _check_types(backend: Backend, keys: list[bytes]) -> None:
    """Raises `WrongType` if one of the keys exists, as no key is a stream."""
    keyspace = Keyspace(backend.store(), backend.now_ms())
    if any(keyspace.header(key) is not None for key in keys):
        raise WrongType
