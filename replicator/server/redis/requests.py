"""Parses the bytes from a client into commands: RESP arrays of bulk strings, or inline commands.

The work grows with the bytes that have arrived, never with a length that a client only announces. The bytes are split
into lines once; most requests are then slices of the list of lines.
"""

from __future__ import annotations

from collections.abc import Callable, Generator

from replicator.limits import (
    MAX_INLINE_BYTES,
    MAX_REQUEST_BYTES,
    MAX_REQUEST_ITEMS,
    UNAUTHENTICATED_ITEM_BYTES,
    UNAUTHENTICATED_ITEMS,
)
from replicator.server.redis.command import Args
from replicator.server.redis.inline import split_words

_CRLF = b"\r\n"
_COUNTS = {b"*%d" % count: count for count in range(1, UNAUTHENTICATED_ITEMS + 1)}
_SIZES = [b"$%d" % size for size in range(1024)]
_MAX_DIGITS = 10


class ProtocolBroken(Exception):
    """The bytes are not RESP. The rest of them cannot be parsed."""


class SecurityAttack(ProtocolBroken):
    """The bytes are a request of HTTP."""


class Requests:
    def __init__(self, *, authenticated: bool, on_take: Callable[[], None] = lambda: None) -> None:
        """`on_take` is called before bytes are parsed that have arrived since the ones before."""
        self.authenticated = authenticated  # else only short requests are allowed
        self.unread = 0  # bytes of `_fed`
        self._fed: list[bytes] = []  # not in `_lines` yet
        self._lines = [b""]  # the last one is incomplete
        self._at = 0  # the first line that is not parsed
        self._on_take = on_take
        self.next = self._parse().__next__
        """The next command, empty if the request was; None if it is not complete yet. Raises `ProtocolBroken`."""

    def feed(self, data: bytes) -> None:
        self.unread += len(data)
        self._fed.append(data)

    def _parse(self) -> Generator[Args | None]:
        while True:
            lines, at = self._lines, self._at
            last = len(lines) - 1
            try:
                while at < last:
                    count = _COUNTS.get(lines[at])
                    if count is None or (end := at + 1 + 2 * count) > last:
                        break
                    args = lines[at + 2 : end : 2]
                    head = at + 1
                    for arg in args:
                        if lines[head] != _SIZES[len(arg)]:
                            break
                        head += 2
                    if head != end:  # a line end is part of an argument, or this is not RESP
                        break
                    at = end
                    yield args
            except IndexError:  # an argument is too long for `_SIZES`
                pass
            self._at = at
            if at == last and not lines[at]:
                yield from self._more()
            else:
                yield from self._parse_by_line()

    def _parse_by_line(self) -> Generator[Args | None]:
        """Yields the next command, or several inline commands; none if it had to wait for the first line."""
        line = self._lines[self._at]
        if line.startswith(b"*") or b"\n" not in line:
            if self._at == len(self._lines) - 1:
                yield from self._more()
                return
            self._at += 1
            yield (yield from self._array(line)) if line.startswith(b"*") else self._inline(line)
            return
        *inline, self._lines[self._at] = line.split(b"\n")
        for line in inline:
            yield self._inline(line.removesuffix(b"\r"))

    def _inline(self, line: bytes) -> Args:
        self._check_line(line)
        if line[:1] and line[:1] in b"$+-:":
            raise ProtocolBroken("expected an array of bulk strings")
        words = split_words(line)
        if words and words[0].lower() in (b"post", b"host:"):
            raise SecurityAttack("HTTP")
        if words is None:
            raise ProtocolBroken("unbalanced quotes in request")
        return words

    def _array(self, head: bytes) -> Generator[Args | None, None, Args]:
        count = _number(head, "invalid multibulk length")
        if count > MAX_REQUEST_ITEMS:
            raise ProtocolBroken("invalid multibulk length")
        if count > UNAUTHENTICATED_ITEMS and not self.authenticated:
            raise ProtocolBroken("unauthenticated multibulk length")
        args: Args = []
        size = 0
        while len(args) < count:
            items = self._items(count - len(args)) or [(yield from self._item())]
            args += items
            size += sum(map(len, items))
            if size > MAX_REQUEST_BYTES:
                raise ProtocolBroken(f"a request of more than {MAX_REQUEST_BYTES} bytes")
        return args

    def _items(self, missing: int) -> Args:
        """All of the next arguments that have arrived, if they are short and contain no line ends."""
        start = self._at
        end = start + 2 * min(missing, (len(self._lines) - 1 - start) // 2)
        args = self._lines[start + 1 : end : 2]
        if self.authenticated and [b"$%d" % len(arg) for arg in args] == self._lines[start:end:2]:
            self._at = end
            return args
        return []

    def _item(self) -> Generator[None, None, bytes]:
        while self._at == len(self._lines) - 1:
            yield from self._more()
        head = self._lines[self._at]
        self._at += 1
        if not head.startswith(b"$"):
            raise ProtocolBroken(f"expected '$', got '{head[:1].decode(errors='replace')}'")
        size = _number(head, "invalid bulk length")
        if not 0 <= size <= MAX_REQUEST_BYTES:
            raise ProtocolBroken("invalid bulk length")
        if size > UNAUTHENTICATED_ITEM_BYTES and not self.authenticated:
            raise ProtocolBroken("unauthenticated bulk length")
        return (yield from self._bulk(size))

    def _bulk(self, size: int) -> Generator[None, None, bytes]:
        lines, start = self._lines, self._at
        found, end = len(lines[start]), start + 1  # the line ends in the argument are part of it
        while found < size and end < len(lines):
            found += len(_CRLF) + len(lines[end])
            end += 1
        if found == size and end < len(lines):
            self._at = end
            return lines[start] if end == start + 1 else _CRLF.join(lines[start:end])
        data = _CRLF.join(lines[start:])
        while len(data) + self.unread < size + len(_CRLF):
            yield None
        data += self._take_fed()
        if not data.startswith(_CRLF, size):
            raise ProtocolBroken("expected a line end after a bulk string")
        self._lines, self._at = data[size + len(_CRLF) :].split(_CRLF), 0
        return data[:size]

    def _more(self) -> Generator[None]:
        """Wait for more bytes. Only the incomplete line is left to parse. Raises `ProtocolBroken`."""
        line = self._lines[-1]
        self._check_line(line)
        while not self._fed:
            yield None
        self._lines, self._at = (line + self._take_fed()).split(_CRLF), 0

    def _take_fed(self) -> bytes:
        self._on_take()
        data = b"".join(self._fed)
        self._fed, self.unread = [], 0
        return data

    def _check_line(self, line: bytes) -> None:
        if len(line) > MAX_INLINE_BYTES:
            raise ProtocolBroken("too big inline request")


def _number(line: bytes, message: str) -> int:
    """The number after the first character. Raises `ProtocolBroken`."""
    digits = line[1:].removeprefix(b"-")
    if not digits.isdigit() or len(digits) > _MAX_DIGITS:
        raise ProtocolBroken(message)
    return int(line[1:])
