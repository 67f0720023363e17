"""Scans of keys and of fields.

To clients, a cursor is a number. Here it is a position in the order of the keys: the number is a hash of the position,
and the server remembers the positions of its latest cursors. So a scan returns every key that exists all the time.
"""

from __future__ import annotations

from collections import OrderedDict

import xxhash

from replicator.errors import BadRequest
from replicator.limits import MAX_CURSORS, MAX_SCAN_COUNT
from replicator.patterns import glob
from replicator.server.keyspace import TYPES, Keyspace
from replicator.server.redis.command import Args
from replicator.server.redis.commands.registry import NOT_AN_INTEGER, SYNTAX, integer, long_read
from replicator.server.redis.resp import Reply
from replicator.steps import Steps

DEFAULT_COUNT = 10


class Cursors:
    """The positions of the latest cursors, by number."""

    def __init__(self) -> None:
        self._positions: OrderedDict[int, bytes] = OrderedDict()

    def number(self, position: bytes) -> int:
        number = int(xxhash.xxh3_64_intdigest(position)) >> 1 or 1  # some clients store cursors as signed integers
        self._positions[number] = position
        self._positions.move_to_end(number)
        if len(self._positions) > MAX_CURSORS:
            self._positions.popitem(last=False)
        return number

    def position(self, number: int) -> bytes:
        """Raises `BadRequest`."""
        if number == 0:
            return b""
        try:
            return self._positions[number]
        except KeyError:
            raise BadRequest("the cursor is unknown at this node, or too old: scan from 0 again") from None


CURSORS = Cursors()


@long_read("keys", 2, (0, 0, 0))
def keys(keyspace: Keyspace, args: Args) -> Steps[Reply]:
    matches = glob(args[1]).match
    found: list[Reply] = []
    for row, _ in keyspace.rows():
        if matches(row):
            found.append(row)
            yield len(row)
        else:
            yield 0
    return found


@long_read("scan", -2, (0, 0, 0))
def scan(keyspace: Keyspace, args: Args) -> Steps[Reply]:
    position = CURSORS.position(_cursor(args[1]))
    options = _options(args[2:], (b"match", b"count", b"type"))
    matches = glob(options.get(b"match", b"*")).match
    wanted = options.get(b"type", b"").lower()
    left = _count(options)
    found: list[Reply] = []
    for row, value in keyspace.rows(position):
        if left == 0:
            return [b"%d" % CURSORS.number(row), found]
        left -= 1
        if matches(row) and (not wanted or TYPES[value.tag] == wanted):
            found.append(row)
        yield len(row)
    return [b"0", found]


@long_read("hscan", -3)
def hscan(keyspace: Keyspace, args: Args) -> Steps[Reply]:
    position = CURSORS.position(_cursor(args[2]))
    if not keyspace.hash_size(args[1]):
        return [b"0", []]
    options = _options(args[3:], (b"match", b"count"))
    matches = glob(options.get(b"match", b"*")).match
    left = _count(options)
    found: list[Reply] = []
    for name, data in keyspace.hash_fields(args[1], position):
        if left == 0:
            return [b"%d" % CURSORS.number(name), found]
        left -= 1
        if matches(name):
            found += (name, data)
        yield len(name) + len(data)
    return [b"0", found]


def _cursor(text: bytes) -> int:
    if not text.isdigit() or len(text) > 20:
        raise BadRequest("invalid cursor")
    return int(text)


def _options(words: Args, known: tuple[bytes, ...]) -> dict[bytes, bytes]:
    if len(words) % 2 or any(word.lower() not in known for word in words[::2]):
        raise BadRequest(SYNTAX)
    return {name.lower(): value for name, value in zip(words[::2], words[1::2], strict=True)}


def _count(options: dict[bytes, bytes]) -> int:
    count = integer(options.get(b"count", b"%d" % DEFAULT_COUNT), NOT_AN_INTEGER)
    if count < 1:
        raise BadRequest(SYNTAX)
    return min(count, MAX_SCAN_COUNT)
