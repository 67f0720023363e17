"""The link to the leader: one kept connection to its Redis port, and one question at a time.

The question is `REPL.INDEX timeline epoch` (`server.redis.commands.index`). Nodes prove who they are as clients do:
with the password of the cluster. A connection with an unanswered question is closed: the answer may still arrive.
"""

from __future__ import annotations

import asyncio
from typing import Any, cast

import hiredis

from replicator.address import Address
from replicator.node.leader_link import CommittedOffset, LinkFailed
from replicator.position import Author, Epoch, NodeId, Offset
from replicator.records.types import Member


class RedisLeaderLink:
    """`node.leader_link.LeaderLink`."""

    def __init__(self, password: str) -> None:
        self._password = password
        self._connection: _LinkConnection | None = None
        self._address: Address | None = None  # of the connection

    async def committed_offset(self, leader: Member, timeline: bytes, epoch: Epoch) -> CommittedOffset:
        """As `LeaderLink.committed_offset`."""
        connection = self._connection
        if connection is None or connection.closed or self._address != leader.resp:
            connection = await self._connect(leader.resp)
        try:
            reply = await connection.ask("REPL.INDEX", timeline.hex(), str(epoch))
        except BaseException:
            connection.close()
            raise
        match reply:
            case [int(offset), int(lease_left_ms), int(term), bytes(node), int(incarnation)]:
                author = Author(NodeId(node.decode(errors="replace")), incarnation)
                return CommittedOffset(Offset(offset), lease_left_ms, Epoch(term), author)
            case _:
                raise LinkFailed(f"{leader.node} at {leader.resp} answered: {reply}")

    async def close(self) -> None:
        if self._connection is not None:
            self._connection.close()

    async def _connect(self, address: Address) -> _LinkConnection:
        await self.close()
        loop = asyncio.get_running_loop()
        try:
            _, connection = await loop.create_connection(_LinkConnection, address.host, address.port)
        except (OSError, ValueError) as error:  # ValueError: not a host name that can be looked up
            raise LinkFailed(f"no connection to {address}: {error}") from error
        try:
            if self._password and (reply := await connection.ask("AUTH", self._password)) != b"OK":
                raise LinkFailed(f"{address} does not accept the password of this node: {reply}")
        except BaseException:
            connection.close()
            raise
        self._connection, self._address = connection, address
        return connection


class _LinkConnection(asyncio.Protocol):
    def __init__(self) -> None:
        self._replies = hiredis.Reader()
        self._transport: asyncio.Transport
        self._answer: asyncio.Future[Any] | None = None  # to the question that was sent
        self.closed = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self._replies.feed(data)
        try:
            reply = self._replies.gets()
        except hiredis.ProtocolError as error:
            self._fail(LinkFailed(f"the answer is not in the Redis protocol: {error}"))
            return
        if reply is not False and self._answer is not None and not self._answer.done():
            self._answer.set_result(reply)

    def connection_lost(self, error: Exception | None) -> None:
        self._fail(LinkFailed(f"the connection was closed{f': {error}' if error else ''}"))

    async def ask(self, *words: str) -> Any:
        """Raises `LinkFailed`. After an exception the connection has to be closed."""
        if self.closed:
            raise LinkFailed("the connection was closed")
        self._answer = asyncio.get_running_loop().create_future()
        self._transport.write(hiredis.pack_command(words))  # type: ignore[arg-type]
        return await self._answer

    def close(self) -> None:
        self.closed = True
        self._transport.abort()

    def _fail(self, error: LinkFailed) -> None:
        self.close()
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(error)
