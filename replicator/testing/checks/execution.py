"""Finds where in the log a request can have been executed: its reply and its changes follow from the state there.

A request is executed by the commands of the Redis server, on the state that a replay of the log has at one offset. The
time at which the leader executed it is unknown, and matters only for rows that had expired: a command either met them
or saw no such row.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import hiredis

from replicator.position import BEFORE_LOG, Offset
from replicator.records.types import Change
from replicator.server.keyspace import WritableKeyspace
from replicator.server.redis.command import Args
from replicator.server.redis.commands.registry import keys_of, look_up
from replicator.server.redis.resp import Reply, encode
from replicator.server.redis.turns import Budget
from replicator.store.keys import encode_key, table_range
from replicator.store.rows import KEYSPACE_TABLE
from replicator.store.values import decode_value, expiry_of
from replicator.store.view import Entries, Transaction
from replicator.testing.checks.canonical import Canonical, Place, end_of
from replicator.testing.history import Request

_BEFORE_ALL_MS = 0
_STEPS = 1000


class PastEntries:
    """The state after one transaction."""

    def __init__(self, canonical: Canonical, place: Place) -> None:
        self._canonical = canonical
        self._place = place

    def get(self, key: bytes) -> bytes | None:
        return self._canonical.value_at(key, self._place)

    def scan(self, start: bytes, stop: bytes, *, reverse: bool = False) -> Iterator[tuple[bytes, bytes]]:
        for key in sorted(self._canonical.values, reverse=reverse):
            value = self.get(key) if start <= key < stop else None
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


def execute(request: Request, entries: Entries, now_ms: int) -> Effect:
    transaction = Transaction(entries)
    keyspace = WritableKeyspace(transaction, now_ms)
    replies = [_run(keyspace, line) for line in request.lines]
    reply = replies if request.in_transaction else replies[0]
    return Effect(reply, _changes(transaction.changes.values()))


def _run(keyspace: WritableKeyspace, line: Args) -> object:
    command = look_up(line)
    result = command.handler(keyspace, line)
    reply: Reply = Budget(_STEPS).finish(result) if command.long else result
    parser = hiredis.Reader()
    parser.feed(encode(reply, 2))
    return parser.gets()


def _stored(value: bytes | None) -> Stored | None:
    return None if value is None else Stored(decode_value(value).data, expiry_of(value) is not None)


def _changes(changes: Iterable[Change]) -> Changes:
    found = [(it, _stored(it.new)) for it in changes if it.table == KEYSPACE_TABLE]
    return {encode_key(it.table, it.row, it.field): new for it, new in found if new != _stored(it.old)}


class Executions:
    def __init__(self, canonical: Canonical, latest_ms: Callable[[Offset], int]) -> None:
        """`latest_ms`: the latest time that the clock of a record's author had shown when the record was appended."""
        self._canonical = canonical
        self._latest_ms = latest_ms

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
            before = PastEntries(canonical, Place(offset, index - 1))
            for now_ms in self._times(request, before, offset):
                unchanged = not watched or _is_unchanged(request, before, now_ms)
                if unchanged and execute(request, before, now_ms) == (request.reply, changes):
                    return offset
        return None

    def shown_at(self, request: Request, low: Offset, high: Offset, *, watched: bool = False) -> Offset | None:
        """The first offset from `low` to `high` at which the request, without changing anything, has that reply."""
        for place in self._differing(request, low, high):
            entries = PastEntries(self._canonical, place)
            unchanged = not watched or _is_unchanged(request, entries, _BEFORE_ALL_MS)
            if unchanged and execute(request, entries, _BEFORE_ALL_MS) == (request.reply, {}):
                return place.offset
        return None

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
        return [_BEFORE_ALL_MS, *sorted(it for it in expiries if it is not None and it <= latest_ms)]

    def _differing(self, request: Request, low: Offset, high: Offset) -> list[Place]:
        """`low`, and each transaction up to `high` that changes one of the request's keys."""
        changed = {
            place
            for key in _keys(request)
            for place, _ in self._canonical.values.get(key, ())
            if low < place.offset <= high
        }
        return [end_of(low), *sorted(changed)]


def _keys(request: Request) -> set[bytes]:
    return {encode_key(KEYSPACE_TABLE, key, b"") for line in request.lines for key in keys_of(look_up(line), line)}


def _is_unchanged(request: Request, entries: Entries, now_ms: int) -> bool:
    """Whether a command would read of the watched rows what the client has read."""
    keyspace = WritableKeyspace(Transaction(entries), now_ms)
    return all(_run(keyspace, [b"GET", key]) == value for key, value in request.watched.items())
