"""A node's connection to the Redis port of the leader: one question at a time, and messages without a question."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Self, cast

import hiredis

from replicator.address import Address
from replicator.node.leader_link import LinkFailed


class LinkConnection(asyncio.Protocol):
    """Nodes prove who they are as clients do: with the password of the cluster."""

    def __init__(self) -> None:
        """Use `open`."""
        self._replies = hiredis.Reader()
        self.transport: asyncio.Transport
        self._answer: asyncio.Future[Any] | None = None  # to the question that was sent
        self.closed: LinkFailed | None = None  # why
        self.on_message: Callable[[Any], None] = _ignore  # called with what is not the answer to a question
        self.on_received: Callable[[], None] = (
            _nothing  # called after the messages that have arrived together, or a loss
        )

    @classmethod
    async def open(cls, address: Address, password: str) -> Self:
        """Raises `LinkFailed`."""
        loop = asyncio.get_running_loop()
        try:
            _, connection = await loop.create_connection(cls, address.host, address.port)
        except (OSError, ValueError) as error:  # ValueError: not a host name that can be looked up
            raise LinkFailed(f"no connection to {address}: {error}") from error
        try:
            if password and (reply := await connection.ask("AUTH", password)) != b"OK":
                raise LinkFailed(f"{address} does not accept the password of this node: {reply}")
        except BaseException:
            connection.close()
            raise
        return connection

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        gets = self._replies.gets
        self._replies.feed(data)
        try:
            while (reply := gets()) is not False:
                if self._answer is None:
                    self.on_message(reply)
                else:
                    answer, self._answer = self._answer, None
                    if not answer.done():
                        answer.set_result(reply)
        except hiredis.ProtocolError as error:
            self.fail(LinkFailed(f"the answer is not in the Redis protocol: {error}"))
        self.on_received()

    def connection_lost(self, error: Exception | None) -> None:
        self.fail(LinkFailed(f"the connection was closed{f': {error}' if error else ''}"))
        self.on_received()

    async def ask(self, *words: str) -> Any:
        """Raises `LinkFailed`. After an exception the connection has to be closed: the answer may still arrive."""
        if self.closed is not None:
            raise self.closed
        self._answer = asyncio.get_running_loop().create_future()
        self.send(*words)
        return await self._answer

    def send(self, *words: str | bytes) -> None:
        """A command that has no answer."""
        self.transport.write(hiredis.pack_command(words))  # type: ignore[arg-type]

    def close(self) -> None:
        self._close(LinkFailed("the connection was closed"))

    def _close(self, why: LinkFailed) -> None:
        if self.closed is None:
            self.closed = why
            self.transport.abort()

    def fail(self, error: LinkFailed) -> None:
        self._close(error)
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(error)


def _ignore(message: Any) -> None:
    pass


def _nothing() -> None:
    pass
