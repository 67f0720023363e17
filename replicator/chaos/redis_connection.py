"""A Redis connection that sends each request once: an outcome that is unknown stays unknown."""

from __future__ import annotations

import asyncio
from typing import Any

import hiredis

HOST = "127.0.0.1"
READ_BYTES = 1 << 16


class NotConnected(Exception):
    """The request was not sent."""


class RedisConnection:
    """A connection to one node. A failure closes it; the next request opens it again."""

    def __init__(self, port: int, password: str) -> None:
        self._port = port
        self._password = password
        self._replies = hiredis.Reader()
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(self, timeout_s: float, *command: str | int) -> Any:
        """The reply, which may be a `hiredis.ReplyError`. Raises `NotConnected`, `OSError`, `TimeoutError`."""
        try:
            async with asyncio.timeout(timeout_s):
                await self.open()
                self.send(*command)
                return await self.receive()
        except BaseException:  # also if cancelled: a late reply would be taken for that of the next request
            self.close()
            raise

    async def open(self) -> None:
        """Raises `NotConnected`."""
        if self._streams is not None:
            return
        try:
            self._streams = await asyncio.open_connection(HOST, self._port)
        except OSError as error:
            raise NotConnected(str(error)) from error
        self._replies = hiredis.Reader()
        if self._password:
            self.send("AUTH", self._password)
            await self.receive()

    def send(self, *command: str | int) -> None:
        """Without waiting for the reply."""
        assert self._streams is not None, "not open"
        self._streams[1].write(hiredis.pack_command(command))  # type: ignore[arg-type] # declared for one part only

    async def receive(self) -> Any:
        """The next reply. Raises `OSError`."""
        assert self._streams is not None, "not open"
        while (reply := self._replies.gets()) is False:
            data = await self._streams[0].read(READ_BYTES)
            if not data:
                raise ConnectionResetError("the node closed the connection")
            self._replies.feed(data)
        return reply

    def close(self) -> None:
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None
