"""Adapts redis-py for both clients: connection options, and its exceptions as `Failure`."""

from __future__ import annotations

from typing import Any

from redis import exceptions

from replicator.address import Address
from replicator.client.requests import Reply
from replicator.client.routing import ERR, LOST, Failure

CONNECT_S = 1.0  # also for each answer during the handshake
CONNECTIONS = 1 << 20
"""To each node, at most. A pool that is full would look like a node that is gone; redis-py's own default is 100."""
NO_ANSWER = "the node did not answer in time"  # a TimeoutError has no text

_CODES: dict[type[Exception], str] = {  # redis-py removes these from the message
    exceptions.ReadOnlyError: "READONLY",
    exceptions.BusyLoadingError: "LOADING",
    exceptions.ExecAbortError: "EXECABORT",
    exceptions.AuthenticationError: "NOAUTH",
    exceptions.NoPermissionError: "NOPERM",
}
_CODES_IN_MESSAGE = frozenset(  # redis-py keeps these
    [
        "ABORTED",
        "BUSY",
        "CONFLICT",
        "CONSTRAINT",
        "FENCED",
        "NOREPLICAS",
        "SQLERROR",
        "STALE",
        "TOOLARGE",
        "UNKNOWN",
        "WRONGTYPE",
    ]
)


def connection_options(address: Address, password: str) -> dict[str, Any]:
    """RESP2, because with RESP3 redis-py reuses connections that the node has closed."""
    return {
        "host": address.host,
        "port": address.port,
        "password": password or None,
        "protocol": 2,
        "socket_connect_timeout": CONNECT_S,
    }


def failure_of(error: Exception, otherwise: str = LOST) -> Failure:
    """`otherwise`: the code of an error that is not an answer of a node."""
    text = str(error)
    for kind, code in _CODES.items():
        if isinstance(error, kind):
            return Failure(code, text)
    if not isinstance(error, exceptions.ResponseError):
        return Failure(otherwise, text or NO_ANSWER)
    code, _, message = text.partition(" ")
    return Failure(code, message) if code in _CODES_IN_MESSAGE else Failure(ERR, text)


def parse_reply(reply: Any) -> Reply:
    """The reply of redis-py with each error replaced by its `Failure`."""
    if isinstance(reply, list):
        return [parse_reply(item) for item in reply]
    return failure_of(reply) if isinstance(reply, Exception) else reply
