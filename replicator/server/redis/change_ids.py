"""The ids of changes in XREAD and XRANGE, `<offset of the record>-<index of the change in it>`, and their entries."""

from __future__ import annotations

import re
from typing import NamedTuple

from replicator.errors import BadRequest
from replicator.position import Offset
from replicator.server.redis.resp import encode
from replicator.store.rows import KEYSPACE_TABLE, Image, RecordChange

LAST_PLACE = 2**64 - 1
"""An id with it is after all changes of its record."""

_ID = re.compile(rb"([0-9]{1,20})(?:-([0-9]{1,20}))?")
_INVALID = "Invalid stream ID specified as stream command argument"


class ChangeId(NamedTuple):
    offset: int
    place: int

    def __str__(self) -> str:
        return f"{self.offset}-{self.place}"


def parse_id(text: bytes, place: int = 0) -> ChangeId:
    """`place`: if the id has only an offset. Raises `BadRequest` with the message of Redis."""
    match = _ID.fullmatch(text)
    if match is None:
        raise BadRequest(_INVALID)
    found = ChangeId(int(match[1]), place if match[2] is None else int(match[2]))
    if max(found) > LAST_PLACE:
        raise BadRequest(_INVALID)
    return found


def encode_entry(offset: Offset, epoch: int, timestamp_us: int, it: RecordChange) -> bytes:
    """A change as an entry of a stream, encoded: the same in RESP2 and RESP3."""
    _, row, field, before, after = it.change
    image = after or before
    assert image is not None
    parts = [b"op", _op(before, after), b"table", KEYSPACE_TABLE.encode(), b"row", row]
    if field is not None:
        parts += b"field", field
    parts += b"type", image.type.encode()
    if after is not None:
        if after.value is not None:
            parts += b"value", after.value
        if after.expires_at_ms is not None:
            parts += b"expires_ms", b"%d" % after.expires_at_ms
    if before is not None and before.value is not None:
        parts += b"old", before.value
    parts += b"seq", b"%d" % it.seq, b"order", b"%d" % it.order, b"changes", b"%d" % it.changes
    parts += b"epoch", b"%d" % epoch, b"ts_ms", b"%d" % (timestamp_us // 1000)
    return encode([b"%d-%d" % (offset, it.place), [*parts]], 2)


def _op(before: Image | None, after: Image | None) -> bytes:
    """As in the change stream."""
    if before is None:
        return b"c"
    return b"d" if after is None else b"u"
