"""What the entries of the table `kv` mean: Redis keys as rows. `docs/log.md` describes them for other programs.

    header   field ""        string: tag s, the bytes       hash: tag h, number of fields (8 bytes, big-endian)
    field    field "f"+name  hash: tag f, the bytes

Only the header has the expiry. A row exists until its header is deleted, also after it has expired.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from replicator.errors import ConfigError
from replicator.position import Seq
from replicator.records.types import Change, Command, Record, Write, singles
from replicator.store.values import NO_EXPIRY_TAG, decode_value

KEYSPACE_TABLE = "kv"
STRING, HASH, FIELD = b"s", b"h", b"f"

_HASH_TAGS = HASH + HASH.upper()
_PLAIN_STRING = STRING[0]
_TYPES = {STRING: "string", HASH: "hash", FIELD: "field"}


class Image(NamedTuple):
    """The state of a row's header, of a hash field, or of a row of a SQL table, before or after a change."""

    type: str  # string, hash, field or row
    value: bytes | None  # None: of a hash, whose fields are images of their own, and of a row of a SQL table
    expires_at_ms: int | None = None
    columns: Mapping[str, int | float | str | bytes | None] | None = None  # by name; None: not of a SQL table

    @property
    def size_bytes(self) -> int:
        """Of its values."""
        if self.columns is None:
            return len(self.value or b"")
        return sum(len(name) + (len(it) if isinstance(it, str | bytes) else 8) for name, it in self.columns.items())


class RowChange(NamedTuple):
    """A change of a string, of a hash as a whole, of a field of a hash, or of a row of a SQL table.

    One of the images is not None.
    """

    place: int  # of the entry, among all that its transaction changes
    row: bytes
    field: bytes | None  # the name of the hash field; None: the row itself
    before: Image | None
    after: Image | None


class RecordChange(NamedTuple):
    """A change in an accepted record."""

    seq: Seq  # of its transaction
    order: int  # of the change in the transaction, from 1
    changes: int  # of the transaction
    place: int  # of the change in the record, from 0: it tells the changes of a record apart, and rises
    change: RowChange


def record_changes(record: Record) -> Iterator[RecordChange]:
    """The changes of an accepted record that concern rows of `kv`, in order. Raises `ConfigError` for a command."""
    before = 0  # entries of the record that earlier transactions change
    for seq, write in enumerate(singles(record.body), record.header.seq):
        if type(write) is Command:
            raise command_error()
        if type(write) is not Write:
            continue
        found = list(row_changes(write.changes))
        for order, change in enumerate(found, 1):
            yield RecordChange(Seq(seq), order, len(found), before + change.place, change)
        before += len(write.changes)


def command_error() -> ConfigError:
    """Of a reader of the log that has no store in which its commands are executed."""
    return ConfigError(
        "the log has a transaction as the command that made it, and its changes are known only where it is executed: "
        "`replicator cluster policy --replicate row` lets the log have all changes from now on"
    )


def row_changes(changes: Sequence[Change]) -> Iterator[RowChange]:
    """The changes of a transaction that concern rows of `kv`, in order.

    A header that only counts the fields of its hash anew is left out: the changes of the fields say it.
    """
    for index, (table, row, field, old, new) in enumerate(changes):
        if table != KEYSPACE_TABLE:
            continue
        if field:
            yield RowChange(index, row, field[1:], _field(old), _field(new))
        elif not _only_counts(old, new):
            yield RowChange(index, row, None, image(old), image(new))


def image(stored: bytes | None) -> Image | None:
    """Of the stored value of an entry; None if there is none."""
    if stored is None:
        return None
    if stored[0] == _PLAIN_STRING:
        return Image("string", stored[1:])
    tag, data, expires_at_ms = decode_value(stored)
    return Image(_TYPES[tag], None if tag == HASH else data, expires_at_ms)


def _field(stored: bytes | None) -> Image | None:
    return None if stored is None else Image("field", stored[1:])


def _only_counts(old: bytes | None, new: bytes | None) -> bool:
    """Whether both are headers of a hash with the same expiry."""
    if old is None or new is None or old[0] not in _HASH_TAGS or old[0] != new[0]:
        return False
    return old[0] >= NO_EXPIRY_TAG or old[1:9] == new[1:9]
