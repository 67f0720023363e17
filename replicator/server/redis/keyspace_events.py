"""The events of keyspace notifications: what the changes of a transaction mean to a subscriber of Redis.

They follow from the changes, not from the commands, so all nodes report the same. Each row has at most one event of a
kind in a transaction.

    header before   header after                  events
    none, another   string                        set; expire, if it has an expiry
    string          string, another value         set; expire, if its expiry is another one
                    the same, another expiry      expire, or persist
                    the same                      set
    any             hash                          hset, hdel by its fields; then as above: expire, persist
    any             none                          del, or expired
    no change       -                             hset

A row whose expiry had passed when the record was written reports `expired` before all else. While a large row is
deleted in parts it reports nothing, until its header is deleted.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from replicator.errors import BadRequest
from replicator.records.types import Change
from replicator.store.rows import KEYSPACE_TABLE, STRING
from replicator.store.values import LONG_AGO_MS, Value, decode_value

CHANNEL_PREFIX = b"__key"
"""Of all channels and patterns that receive keyspace notifications: a pattern such as `*` does not."""
KEYSPACE = b"__keyspace@0__:"
KEYEVENT = b"__keyevent@0__:"

SENT_EVENTS = b"AKE"
"""`notify-keyspace-events` in Redis' own letters: all events of strings and hashes, on both kinds of channels."""

SET, HSET, HDEL, DEL, EXPIRED, EXPIRE, PERSIST = b"set", b"hset", b"hdel", b"del", b"expired", b"expire", b"persist"

_ON, _CLASSES, _NOT_SENT = b"KE", b"Ag$lshzxetd", b"mn"


def check_wanted(flags: bytes) -> None:
    """A value for `notify-keyspace-events` changes nothing. Raises `BadRequest` if it asks for what is not sent."""
    flags = bytes(set(flags))  # each once: the value may be of any size
    failed = "CONFIG SET failed (possibly related to argument 'notify-keyspace-events') - "
    if any(flag not in _ON + _CLASSES + _NOT_SENT for flag in flags):
        raise BadRequest(f"{failed}Invalid event class character. Use 'Ag$lshzxeKEtmdn'.")
    if any(flag in _NOT_SENT for flag in flags):
        raise BadRequest(f"{failed}events of missed keys (m) and new keys (n) are not sent")
    if not any(flag in _ON for flag in flags) or not any(flag in _CLASSES for flag in flags):
        raise BadRequest(f"{failed}events cannot be switched off: each is sent if a client subscribes to it")


Event = tuple[bytes, bytes]
"""The row, and the name of the event."""


def events_of(changes: Sequence[Change], written_ms: int) -> Iterator[Event]:
    """The events of a transaction whose record was written at that time, in order."""
    headers: dict[bytes, Change | None] = {}  # by row; None: its header has not changed
    fields: dict[bytes, dict[bytes, None]] = {}  # by row: events of its fields, in order
    for change in changes:
        if change.table != KEYSPACE_TABLE:
            continue
        row = change.row
        if change.field:
            headers.setdefault(row, None)
            fields.setdefault(row, {})[HDEL if change.new is None else HSET] = None
        else:
            headers[row] = change
    for row, header in headers.items():
        names = fields.get(row, {})
        if header is not None:
            for name in _of_header(header, names, written_ms):
                yield row, name
        elif HSET in names:  # without a change of the header, fields are deleted only after it was: by FLUSHALL
            yield row, HSET


def _of_header(header: Change, fields: dict[bytes, None], written_ms: int) -> Iterator[bytes]:
    before, after = _decoded(header.old), _decoded(header.new)
    had_expired = before is not None and before.expires_at_ms is not None and before.expires_at_ms <= written_ms
    if after is None:
        yield EXPIRED if had_expired else DEL
        return
    if after.expires_at_ms == LONG_AGO_MS:
        return
    if had_expired:
        yield EXPIRED
        before = None
    expiry_before = None if before is None else before.expires_at_ms
    changed = before is None or before.tag != after.tag
    if after.tag == STRING:
        same_value = before is not None and not changed and before.data == after.data
        if not same_value or expiry_before == after.expires_at_ms:
            yield SET
        elif after.expires_at_ms is None:
            yield PERSIST
    else:
        for name in fields:
            if name is HSET or not changed:
                yield name
        if after.expires_at_ms is None and expiry_before is not None and not changed:
            yield PERSIST
    if after.expires_at_ms is not None and expiry_before != after.expires_at_ms:
        yield EXPIRE


def _decoded(stored: bytes | None) -> Value | None:
    return None if stored is None else decode_value(stored)
