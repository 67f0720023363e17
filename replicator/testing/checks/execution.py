"""Finds where in the log a request can have been executed: its reply and its changes follow from the state there.

A request is executed by the commands of the Redis server, on the state that a replay of the log has at one offset. The
time at which the leader executed it is unknown, and matters only for rows that had expired: a command either met them
or saw no such row.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

import hiredis

from replicator.errors import Diverged
from replicator.position import BEFORE_LOG, Offset
from replicator.records.tape import Call, Player
from replicator.records.types import Change
from replicator.server.keyspace import WritableKeyspace
from replicator.server.programs import Programs
from replicator.server.redis.command import Args
from replicator.server.redis.commands.registry import keys_of, look_up
from replicator.server.redis.execution import run
from replicator.server.redis.resp import Reply, encode
from replicator.server.redis.turns import Budget
from replicator.store.keys import decode_key, encode_key, table_range
from replicator.store.rows import KEYSPACE_TABLE
from replicator.store.values import decode_value, expiry_of
from replicator.store.view import Entries, Transaction
from replicator.testing.checks.canonical import Canonical, Place, end_of, is_of_sql
from replicator.testing.history import Request, is_sql, plain

_BEFORE_ALL_MS = 0
_STEPS = 1000


class PastEntries:
    """The state after one transaction."""

    def __init__(self, canonical: Canonical, place: Place, keys: Sequence[bytes] | None = None) -> None:
        """`keys`: all store keys that ever had a value, sorted."""
        self._canonical = canonical
        self._place = place
        self._keys = sorted(canonical.values) if keys is None else keys

    def get(self, key: bytes) -> bytes | None:
        return self._canonical.value_at(key, self._place)

    def scan(self, start: bytes, stop: bytes, *, reverse: bool = False) -> Iterator[tuple[bytes, bytes]]:
        first, end = bisect_left(self._keys, start), bisect_left(self._keys, stop)
        keys = self._keys[first:end]
        for key in reversed(keys) if reverse else keys:
            value = self.get(key)
            if value is not None:
                yield key, value

    def rows(self, table: str) -> int:
        return sum(1 for _ in self.scan(*table_range(table)))  # they have one entry each


class Stored(NamedTuple):
    """A stored value, except for the time at which it expires."""

    data: bytes
    expires: bool


Changes = dict[bytes, Stored | None]
"""The new values by store key. Another time at which a value expires is not a change."""


class Effect(NamedTuple):
    reply: object  # as hiredis parses it
    changes: Changes


def execute(request: Request, entries: Entries, now_ms: int, programs: Programs | None = None) -> Effect:
    """Nondeterministic calls have the results that the reply of the request shows."""
    transaction, tape = Transaction(entries), Player(drawn_by(request))
    keyspace = WritableKeyspace(transaction, now_ms, programs, tape)
    try:
        replies = [_run(keyspace, line) for line in request.lines]
        tape.finish()
    except Diverged as error:
        return Effect(error, {})
    reply = replies if request.in_transaction else replies[0]
    return Effect(reply, _changes(transaction.changes.values()))


def _run(keyspace: WritableKeyspace, line: Args) -> object:
    command = look_up(line)

    def handler(keyspace: WritableKeyspace, line: Args) -> Reply:
        result = command.handler(keyspace, line)
        return Budget(_STEPS).finish(result) if command.long else result

    parser = hiredis.Reader()
    parser.feed(encode(run(keyspace, handler, keyspace, line), 2))
    return plain(parser.gets())


def drawn_by(request: Request) -> list[Call]:
    """The random numbers of its statements, which return them in the column `r`."""
    return [
        Call("random", row[rows[0].index(b"r")])
        for line, rows in _replies(request)
        if b"random()" in b" ".join(line) and isinstance(rows, list)
        for row in rows[1:]
    ]


def times_in(request: Request) -> Iterator[int]:
    """For which its statements were executed: they return it in the column `at`."""
    for line, rows in _replies(request):
        if b"now()" in b" ".join(line) and isinstance(rows, list):
            for row in rows[1:]:
                at = datetime.fromisoformat(row[rows[0].index(b"at")].decode()).replace(tzinfo=UTC)
                yield int(at.timestamp()) * 1000


def _replies(request: Request) -> Iterator[tuple[Args, Any]]:
    replies = request.reply if request.in_transaction else [request.reply]
    if isinstance(replies, list) and len(replies) == len(request.lines):
        yield from zip(request.lines, replies, strict=True)


def _stored(value: bytes | None) -> Stored | None:
    return None if value is None else Stored(decode_value(value).data, expiry_of(value) is not None)


def _changes(changes: Iterable[Change]) -> Changes:
    changed: Changes = {}
    for it in changes:
        key = encode_key(it.table, it.row, it.field)
        if it.table == KEYSPACE_TABLE and _stored(it.new) != _stored(it.old):
            changed[key] = _stored(it.new)
        elif is_of_sql(it.table) and it.new != it.old:
            changed[key] = None if it.new is None else Stored(it.new, False)
    return changed


class Executions:
    def __init__(self, canonical: Canonical, latest_ms: Callable[[Offset], int]) -> None:
        """`latest_ms`: the latest time that the clock of a record's author had shown when the record was appended."""
        self._canonical = canonical
        self._latest_ms = latest_ms
        self._programs = Programs(limited=False)
        self._keys = sorted(canonical.values)
        self._sql_keys = {key for key in self._keys if is_of_sql(decode_key(key)[0])}
        self._shown: dict[tuple[object, ...], Effect] = {}  # by statements that read, and place

    def record_of(self, request: Request, *, watched: bool = False) -> Offset | None:
        """The offset of the record that the request has written, if it can have written that.

        `watched`: and if what it watched was unchanged until then.
        """
        canonical = self._canonical
        offset = canonical.once.get(request.id, [BEFORE_LOG])[0] if request.id else request.record
        if offset not in canonical.writes:
            return None
        for index, write in enumerate(canonical.writes[offset].writes):
            changes = _changes(write.changes)
            if not changes and not request.id:
                continue
            before = self._entries(Place(offset, index - 1))
            for now_ms in self._times(request, before, offset):
                unchanged = not watched or _is_unchanged(request, before, now_ms)
                if unchanged and execute(request, before, now_ms, self._programs) == (plain(request.reply), changes):
                    return offset
        return None

    def shown_at(self, request: Request, low: Offset, high: Offset, *, watched: bool = False) -> Offset | None:
        """The first offset from `low` to `high` at which the request, without changing anything, has that reply."""
        for place in self._differing(request, low, high):
            entries = self._entries(place)
            unchanged = not watched or _is_unchanged(request, entries, _BEFORE_ALL_MS)
            if unchanged and self._effect_at(request, entries, place) == (plain(request.reply), {}):
                return place.offset
        return None

    def _entries(self, place: Place) -> PastEntries:
        return PastEntries(self._canonical, place, self._keys)

    def _effect_at(self, request: Request, entries: PastEntries, place: Place) -> Effect:
        """Without changes; statements take long, and many requests have the same."""
        if not (request.only_reads and any(map(is_sql, request.lines))):
            return execute(request, entries, _BEFORE_ALL_MS, self._programs)
        key = (place, request.in_transaction, *map(tuple, request.lines))
        effect = self._shown.get(key)
        if effect is None:
            effect = self._shown[key] = execute(request, entries, _BEFORE_ALL_MS, self._programs)
        return effect

    def executed_at(self, request: Request, low: Offset, high: Offset) -> Offset | None:
        """The first offset from `low` to `high` at which the request can have been executed.

        A request that is repeated with its id is executed once, and shown from then on.
        """
        offset = self.record_of(request)
        if request.id:
            return None if offset is None or offset > high else max(low, offset)
        if offset is not None and low < offset <= high:
            return offset
        return self.shown_at(request, low, high)

    def _times(self, request: Request, entries: PastEntries, offset: Offset) -> list[int]:
        """One for each set of rows that may have expired when the request was executed."""
        latest_ms = self._latest_ms(offset)
        expiries = {expiry_of(entries.get(key)) for key in _keys(request)}
        met = sorted(it for it in expiries if it is not None and it <= latest_ms)
        return [*times_in(request), _BEFORE_ALL_MS, *met]

    def _differing(self, request: Request, low: Offset, high: Offset) -> list[Place]:
        """`low`, and each transaction up to `high` that changes one of the request's keys."""
        changed = {
            place
            for key in self._keys_of(request)
            for place, _ in self._canonical.values.get(key, ())
            if low < place.offset <= high
        }
        return [end_of(low), *sorted(changed)]

    def _keys_of(self, request: Request) -> set[bytes]:
        """A statement may read any table."""
        return _keys(request) | self._sql_keys if any(map(is_sql, request.lines)) else _keys(request)


def _keys(request: Request) -> set[bytes]:
    return {encode_key(KEYSPACE_TABLE, key, b"") for line in request.lines for key in keys_of(look_up(line), line)}


def _is_unchanged(request: Request, entries: Entries, now_ms: int) -> bool:
    """Whether a command would read of the watched rows what the client has read."""
    keyspace = WritableKeyspace(Transaction(entries), now_ms)
    return all(_run(keyspace, [b"GET", key]) == value for key, value in request.watched.items())
