"""Parses the bytes from a client into commands: RESP arrays of bulk strings (by hiredis), or inline commands."""

from __future__ import annotations

import shlex

import hiredis

from replicator.limits import MAX_INLINE_BYTES, MAX_REQUEST_BYTES
from replicator.server.redis.command import Args


class ProtocolBroken(Exception):
    """The bytes are not RESP. The rest of them cannot be parsed."""


class Requests:
    def __init__(self) -> None:
        self._reader = hiredis.Reader()
        self._inline: bytearray | None = None  # bytes not parsed yet, while the client sends inline commands
        self._fed = b""  # the last chunk; it may be an inline command
        self._parsed = False  # the last chunk had a command
        self.unparsed = 0  # at least the bytes received since the last command

    def feed(self, data: bytes) -> None:
        self.unparsed += len(data)
        if self._inline is not None:
            self._inline += data
            return
        self._fed, self._parsed = data, False
        self._reader.feed(data)

    def next(self) -> Args | None:
        """The next command; None if it is not complete yet. Raises `ProtocolBroken`."""
        if self._inline is not None:
            return self._next_inline()
        try:
            request = self._reader.gets()
        except hiredis.ProtocolError as error:
            return self._try_inline(str(error))
        if request is False:
            if self.unparsed > MAX_REQUEST_BYTES:
                raise ProtocolBroken(f"a request of more than {MAX_REQUEST_BYTES} bytes")
            return None
        self._parsed = True
        self.unparsed = 0
        if type(request) is not list:
            raise ProtocolBroken("expected an array of bulk strings")
        if not request:
            return self.next()
        for part in request:
            if type(part) is not bytes:
                raise ProtocolBroken("expected '$', got something else")
        return request

    def _try_inline(self, reason: str) -> Args | None:
        if self._parsed or self.unparsed != len(self._fed) or self._fed[:1] in b"*$+-:":
            raise ProtocolBroken(reason.removeprefix("Protocol error, "))
        self._inline = bytearray(self._fed)
        return self._next_inline()

    def _next_inline(self) -> Args | None:
        while self._inline is not None:
            if not self._inline or self._inline.startswith(b"*"):
                return self._leave_inline()
            line, newline, rest = self._inline.partition(b"\n")
            if not newline:
                if len(line) > MAX_INLINE_BYTES:
                    raise ProtocolBroken("too big inline request")
                return None
            self._inline = rest
            self.unparsed = len(rest)
            args = _split(bytes(line).rstrip(b"\r"))
            if args:
                return args
        return None

    def _leave_inline(self) -> Args | None:
        """The next command may be an array."""
        rest = bytes(self._inline or b"")
        self._inline = None
        self._reader = hiredis.Reader()
        self.unparsed = 0
        if not rest:
            return None
        self.feed(rest)
        return self.next()


def _split(line: bytes) -> Args:
    """Words, which may be quoted. Raises `ProtocolBroken`."""
    try:
        return [word.encode("latin-1") for word in shlex.split(line.decode("latin-1"))]
    except ValueError:
        raise ProtocolBroken("unbalanced quotes in request") from None
