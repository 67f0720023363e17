r"""Encodes (table, row, field) as one LMDB key, and decodes it.

    key = table 00 | row, with each 00 written as 00 FF | 00 01 | field

Keys sort by table, then row, then field, whatever bytes they contain, so all fields of a row are adjacent. The limit of
LMDB is 511 bytes (MDB_MAXKEYSIZE).
"""

from __future__ import annotations

from replicator.errors import BadRequest
from replicator.limits import MAX_KEY_BYTES

_END = b"\x00\x01"
_PAST = b"\x00\x02"


def encode_key(table: str, row: bytes, field: bytes) -> bytes:
    """Raises `BadRequest` if the key is longer than LMDB allows."""
    if b"\x00" in row:
        row = row.replace(b"\x00", b"\x00\xff")
    key = b"%b\x00%b\x00\x01%b" % (table.encode(), row, field)
    if len(key) > MAX_KEY_BYTES:
        raise BadRequest(f"key too long: with table and field it has {len(key)} bytes, the limit is {MAX_KEY_BYTES}")
    return key


def decode_key(key: bytes) -> tuple[str, bytes, bytes]:
    table, rest = key.split(b"\x00", 1)
    row, field = rest.split(_END, 1)
    return table.decode(), row.replace(b"\x00\xff", b"\x00"), field


def table_range(table: str) -> tuple[bytes, bytes]:
    """Bounds [start, stop) of all keys of a table."""
    name = table.encode()
    return name + b"\x00", name + b"\x01"


def row_range(table: str, row: bytes) -> tuple[bytes, bytes]:
    """Bounds [start, stop) of all keys of a row; the keys of the next row are at or after `stop`."""
    prefix = table.encode() + b"\x00" + row.replace(b"\x00", b"\x00\xff")
    return prefix + _END, prefix + _PAST
