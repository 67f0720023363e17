"""A node's connection to the Redis port of another: one question at a time, and messages without a question."""

from __future__ import annotations

import asyncio
from typing import Any, Protocol, Self, cast

import hiredis

from replicator.address import Address
from replicator.limits import MAX_MESSAGE_BYTES
from replicator.node.node_link import LinkFailed


class MessageReceiver(Protocol):
    def take(self, message: Any) -> None:
        """A message that is not the answer to a question."""
        ...

    def received(self) -> None:
        """All messages that have arrived together were taken, or the connection was lost."""
        ...


class NodeConnection(asyncio.Protocol):
    """Nodes prove who they are as clients do: with the password of the cluster."""

    def __init__(self) -> None:
        """Use `open`."""
        self.transport: asyncio.Transport
        self.closed: LinkFailed | None = None  # why
        self.receiver: MessageReceiver | None = None  # None: messages are ignored
        self._replies = hiredis.Reader()
        self._incomplete_bytes = 0  # that have arrived since the last message that was complete
        self._answer: asyncio.Future[Any] | None = None  # to the question that was sent

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
        self._incomplete_bytes += len(data)
        try:
            while (reply := gets()) is not False:
                self._incomplete_bytes = 0
                if self._answer is not None:
                    answer, self._answer = self._answer, None
                    if not answer.done():
                        answer.set_result(reply)
                elif self.receiver is not None:
                    self.receiver.take(reply)
        except hiredis.ProtocolError as error:
            self.close(LinkFailed(f"the answer is not in the Redis protocol: {error}"))
        if self._incomplete_bytes > MAX_MESSAGE_BYTES:
            self.close(LinkFailed(f"the answer is larger than {MAX_MESSAGE_BYTES} bytes"))
        if self.receiver is not None:
            self.receiver.received()

    def connection_lost(self, error: Exception | None) -> None:
        self.close(LinkFailed(f"the connection was closed{f': {error}' if error else ''}"))
        if self.receiver is not None:
            self.receiver.received()

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

    def close(self, why: LinkFailed | None = None) -> None:
        """A question that has no answer yet fails."""
        if self.closed is None:
            self.closed = why or LinkFailed("the connection was closed")
            self.transport.abort()
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(self.closed)
