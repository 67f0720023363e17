"""Reads and writes Redis keys, as rows of the table `kv` (`store.rows`).

A row exists until it is deleted, although it has expired: views decide whether a read waits for that
(`node.leader_reads`), and a write deletes the expired rows that it meets.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import Protocol

from replicator.errors import BadRequest, WrongType
from replicator.limits import FLUSH_BYTES, FLUSH_ENTRIES, MAX_CHANGES, MAX_VALUE_BYTES
from replicator.records.tape import Recorder, Tape
from replicator.records.types import Replication
from replicator.server.programs import Programs
from replicator.store.keys import decode_key, encode_key, row_range, table_range
from replicator.store.rows import FIELD, HASH, KEYSPACE_TABLE, STRING
from replicator.store.values import Value, decode_value, encode_value
from replicator.store.view import Entries, Transaction

_PLAIN_STRING = STRING[0]  # without expiry
_HASHES = HASH + HASH.upper()
_SHORT = 256  # bytes of a row that always fit in a key
TYPES = {STRING: b"string", HASH: b"hash"}


class TimeLimit(Protocol):
    def is_exceeded(self) -> bool: ...


class Keyspace:
    """Reads of one view at one point in time."""

    def __init__(self, view: Entries, now_ms: int, programs: Programs | None = None) -> None:
        self._view = view
        self._get = view.get
        self.now_ms = now_ms
        self.limit: TimeLimit | None = None  # of all commands of a transaction together
        self._programs = programs

    @property
    def view(self) -> Entries:
        return self._view

    @property
    def programs(self) -> Programs:
        """What executes the programs of clients."""
        if self._programs is None:
            self._programs = Programs()
        return self._programs

    def header(self, row: bytes) -> Value | None:
        stored = self._get(_header_key(row))
        return None if stored is None else decode_value(stored)

    def string(self, row: bytes) -> bytes | None:
        """Raises `WrongType`."""
        stored = self._get(_header_key(row))
        if stored is None:
            return None
        if stored[0] == _PLAIN_STRING:
            return stored[1:]
        value = self.header(row)
        if value is None:
            return None
        if value.tag != STRING:
            raise WrongType
        return value.data

    def hash_size(self, row: bytes) -> int:
        """Number of fields, 0 if there is no such row. Raises `WrongType`."""
        value = self.header(row)
        if value is None:
            return 0
        if value.tag != HASH:
            raise WrongType
        return int.from_bytes(value.data, "big")

    def hash_field(self, row: bytes, name: bytes) -> bytes | None:
        """Raises `WrongType`."""
        return self._field(row, name) if self.hash_size(row) else None

    def hash_fields(self, row: bytes, from_name: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
        """Names and values in the order of their names. Raises `WrongType`."""
        if not self.hash_size(row):
            return
        _, stop = row_range(KEYSPACE_TABLE, row)
        start = encode_key(KEYSPACE_TABLE, row, b"f")
        for key, stored in self._view.scan(start + from_name, stop):
            yield key[len(start) :], stored[1:]

    def rows(self, from_row: bytes = b"") -> Iterator[tuple[bytes, Value]]:
        """The rows of the store, in key order, with their headers."""
        start, stop = row_range(KEYSPACE_TABLE, from_row)[0], table_range(KEYSPACE_TABLE)[1]
        if not from_row:
            start = table_range(KEYSPACE_TABLE)[0]
        while True:
            found = next(islice(self._view.scan(start, stop), 1), None)
            if found is None:
                return
            _, row, _ = decode_key(found[0])
            yield row, decode_value(found[1])
            start = row_range(KEYSPACE_TABLE, row)[1]

    def size(self) -> int:
        return self._view.rows(KEYSPACE_TABLE)

    def _field(self, row: bytes, name: bytes) -> bytes | None:
        stored = self._get(encode_key(KEYSPACE_TABLE, row, b"f" + name))
        return None if stored is None else stored[1:]


@dataclass(slots=True)
class CommandInfo:
    """What the log needs to know of the commands of a transaction, beside their lines and the tape."""

    replication: Replication | None = None  # that the client has asked for
    is_repeatable: bool = True  # whether the commands have the same effect again, with the tape
    engines: frozenset[str] = frozenset()  # what has executed them, as in `records.types.Command`
    script_texts: Mapping[bytes, bytes] = field(default_factory=dict)  # of scripts that were called by their digests
    reads: int = 0  # as in `records.types.Command`


class WritableKeyspace(Keyspace):
    """Reads and writes of one transaction."""

    def __init__(
        self,
        transaction: Transaction,
        now_ms: int,
        programs: Programs | None = None,
        tape: Tape | None = None,
    ) -> None:
        super().__init__(transaction, now_ms, programs)
        self.transaction = transaction
        self.command_info = CommandInfo()
        self._tape = tape

    @property
    def tape(self) -> Tape:
        """The results of nondeterministic calls of the transaction. Most commands make none."""
        if self._tape is None:
            self._tape = Recorder()
        return self._tape

    def header(self, row: bytes) -> Value | None:
        """Deletes the row if it has expired."""
        value = super().header(row)
        if value is None or value.expires_at_ms is None or value.expires_at_ms > self.now_ms:
            return value
        self.transaction.remove_expired(KEYSPACE_TABLE, row)
        return None

    def put_string(self, row: bytes, data: bytes, expires_at_ms: int | None = None) -> None:
        """Replace the row, whatever its type. Raises `BadRequest` if the value is too large."""
        _check_size(data)
        key = _header_key(row)
        stored = self._get(key)
        if stored is not None and stored[0] in _HASHES:
            self._clear_fields(row)
        self.transaction.put_at(key, KEYSPACE_TABLE, row, b"", encode_value(STRING, data, expires_at_ms))

    def put_fields(self, row: bytes, fields: dict[bytes, bytes]) -> int:
        """Returns the number of new fields. Raises `WrongType`, `BadRequest`."""
        before = self.hash_size(row)
        added = 0
        for name, data in fields.items():
            _check_size(data)
            added += self._field(row, name) is None
            self.transaction.put(KEYSPACE_TABLE, row, b"f" + name, FIELD + data)
        if added:
            self._put_count(row, before + added)
        return added

    def remove_fields(self, row: bytes, names: list[bytes]) -> int:
        """Returns the number of fields removed. Raises `WrongType`."""
        before = self.hash_size(row)
        if not before:
            return 0
        removed = 0
        for name in names:
            if self._field(row, name) is not None:
                self.transaction.put(KEYSPACE_TABLE, row, b"f" + name, None)
                removed += 1
        if removed == before:
            self.transaction.put(KEYSPACE_TABLE, row, b"", None)
        elif removed:
            self._put_count(row, before - removed)
        return removed

    def set_expiry(self, row: bytes, value: Value, expires_at_ms: int | None) -> None:
        self.transaction.put(KEYSPACE_TABLE, row, b"", encode_value(value.tag, value.data, expires_at_ms))

    def remove(self, row: bytes) -> bool:
        """Returns whether the row existed."""
        value = self.header(row)
        if value is None:
            return False
        if value.tag == HASH:
            self._clear_fields(row)
        self.transaction.put(KEYSPACE_TABLE, row, b"", None)
        return True

    def remove_some(self, start: bytes | None) -> bytes:
        """Remove rows from the store key `start` on (None: from the first), as many as fit into one record.

        Of a hash that does not fit, some fields are removed. Returns the store key to go on from.
        """
        first, stop = table_range(KEYSPACE_TABLE)
        size, found = 0, list[bytes]()
        beyond = stop
        for key, stored in self._view.scan(start or first, stop):
            size += len(key) + len(stored)
            if found and (size > FLUSH_BYTES or len(found) == FLUSH_ENTRIES):
                beyond = key
                break
            found.append(key)
        if beyond != stop and (row := decode_key(beyond)[1]) == decode_key(found[-1])[1]:
            beyond = self._keep_rest_of_hash(row, found)
        for key in found:
            self.transaction.put(*decode_key(key), None)
        return beyond

    def _keep_rest_of_hash(self, row: bytes, removed: list[bytes]) -> bytes:
        """Its header, which is not removed, but counts the fields that are left."""
        header = _header_key(row)
        if header in removed:
            removed.remove(header)
        fields = sum(decode_key(key)[1] == row for key in removed)
        value = super().header(row)  # also if the row has expired
        if fields and value is not None:
            count = int.from_bytes(value.data, "big") - fields
            counted = encode_value(HASH, count.to_bytes(8, "big"), value.expires_at_ms)
            self.transaction.put(KEYSPACE_TABLE, row, b"", counted)
        return header

    def rename(self, source: bytes, target: bytes) -> None:
        """`source` must exist; `target` is replaced."""
        entries = list(islice(self._view.scan(*row_range(KEYSPACE_TABLE, source)), MAX_CHANGES + 1))
        self.remove(target)
        for key, stored in entries:
            part = decode_key(key)[2]
            self.transaction.put(KEYSPACE_TABLE, source, part, None)
            self.transaction.put(KEYSPACE_TABLE, target, part, stored)

    def _put_count(self, row: bytes, count: int) -> None:
        value = self.header(row)
        expires_at_ms = value.expires_at_ms if value else None
        self.transaction.put(KEYSPACE_TABLE, row, b"", encode_value(HASH, count.to_bytes(8, "big"), expires_at_ms))

    def _clear_fields(self, row: bytes) -> None:
        """Of a hash."""
        _, stop = row_range(KEYSPACE_TABLE, row)
        fields = self._view.scan(encode_key(KEYSPACE_TABLE, row, b"f"), stop)
        for key, _ in list(islice(fields, MAX_CHANGES + 1)):  # more than one transaction can remove
            self.transaction.put(KEYSPACE_TABLE, row, decode_key(key)[2], None)


def _header_key(row: bytes) -> bytes:
    if len(row) > _SHORT or 0 in row:
        return encode_key(KEYSPACE_TABLE, row, b"")
    return b"kv\x00%b\x00\x01" % row


def _check_size(data: bytes) -> None:
    if len(data) > MAX_VALUE_BYTES:
        raise BadRequest(f"a value of {len(data)} bytes is too large, at most {MAX_VALUE_BYTES}: split it")
