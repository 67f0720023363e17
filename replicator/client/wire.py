"""What both shells share of redis-py: the options of a connection, and what its errors stand for."""

from __future__ import annotations

from typing import Any

from redis import exceptions

from replicator.address import Address
from replicator.client.requests import Reply
from replicator.client.routing import ERR, LOST, Failure

CONNECT_S = 1.0  # and for each answer while connecting
NO_ANSWER = "there was no answer in time"  # the text of a TimeoutError, which has none

_CODES: dict[type[Exception], str] = {  # which redis-py takes off the message
    exceptions.ReadOnlyError: "READONLY",
    exceptions.BusyLoadingError: "LOADING",
    exceptions.ExecAbortError: "EXECABORT",
    exceptions.AuthenticationError: "NOAUTH",
    exceptions.NoPermissionError: "NOPERM",
}
_SPELT = frozenset({"BUSY", "FENCED", "NOREPLICAS", "STALE", "UNKNOWN", "WRONGTYPE"})  # and which it leaves


def connection_options(place: Address, password: str) -> dict[str, Any]:
    """RESP2, because with RESP3 redis-py keeps connections that the node has closed."""
    return {
        "host": place.host,
        "port": place.port,
        "password": password or None,
        "protocol": 2,
        "socket_connect_timeout": CONNECT_S,
    }


def failure_of(error: Exception, otherwise: str = LOST) -> Failure:
    """`otherwise`: what an error is that no node has answered."""
    text = str(error)
    for kind, code in _CODES.items():
        if isinstance(error, kind):
            return Failure(code, text)
    if not isinstance(error, exceptions.ResponseError):
        return Failure(otherwise, text or NO_ANSWER)
    code, _, message = text.partition(" ")
    return Failure(code, message) if code in _SPELT else Failure(ERR, text)


def told(reply: Any) -> Reply:
    """A reply of redis-py, with `Failure` for each error in it."""
    if isinstance(reply, list):
        return [told(item) for item in reply]
    return failure_of(reply) if isinstance(reply, Exception) else reply
