"""A blocking connection to a Redis port, for the commands of this package. Programs use `replicator.client`."""

from __future__ import annotations

import socket
from collections.abc import Iterable, Sequence
from types import TracebackType
from typing import Any, Self

import hiredis

from replicator.address import Address
from replicator.errors import ReplicatorError

READ_BYTES = 1 << 16

Words = Sequence[str | bytes | int]


class CommandFailed(ReplicatorError):
    """The server answered with an error."""


class NotRedis(CommandFailed):
    """The server answered, but not in the Redis protocol."""


class RespConnection:
    """Each request is sent once, and raises `CommandFailed` or `OSError`. After `OSError`, close the connection."""

    def __init__(self, address: Address, password: str = "", timeout_s: float = 60.0) -> None:
        """Connects, and authenticates if there is a password. Raises `CommandFailed`, `OSError`."""
        self._replies = hiredis.Reader()
        self._socket = socket.create_connection((address.host, address.port), timeout_s)
        if password:
            try:
                self.execute("AUTH", password)
            except BaseException:
                self.close()
                raise

    def execute(self, *command: str | bytes | int) -> Any:
        """The reply, with strings as bytes."""
        [reply] = self.execute_all([command])
        return reply

    def execute_all(self, commands: Iterable[Words]) -> list[Any]:
        """The replies to all commands, which are sent at once. Raises the first error among them."""
        packed = [hiredis.pack_command(tuple(command)) for command in commands]  # type: ignore[arg-type] # declared for one part only
        self._socket.sendall(b"".join(packed))
        replies = [self._receive() for _ in packed]
        for reply in replies:
            if isinstance(reply, hiredis.ReplyError):
                raise CommandFailed(str(reply))
        return replies

    def close(self) -> None:
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, type: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _receive(self) -> Any:
        try:
            while (reply := self._replies.gets()) is False:
                data = self._socket.recv(READ_BYTES)
                if not data:
                    raise ConnectionResetError("the server closed the connection")
                self._replies.feed(data)
        except hiredis.ProtocolError as error:
            raise NotRedis(f"the server does not speak the Redis protocol: {error}") from error
        return reply
