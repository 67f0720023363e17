"""Subscriptions to failover events and keyspace notifications (`subscriptions`)."""

from __future__ import annotations

from collections.abc import Callable

from replicator.patterns import globs
from replicator.server.redis.command import Args
from replicator.server.redis.commands.registry import control, refuse_in_multi
from replicator.server.redis.context import ConnectionContext
from replicator.server.redis.resp import Push


@control("subscribe", -2)
def subscribe(connection: ConnectionContext, args: Args) -> None:
    _confirm(connection, args[0], args[1:], connection.subscriptions.subscribe)


@control("psubscribe", -2)
def psubscribe(connection: ConnectionContext, args: Args) -> None:
    globs(args[1:])  # raises
    _confirm(connection, args[0], args[1:], connection.subscriptions.subscribe_pattern)


@control("unsubscribe", -1)
def unsubscribe(connection: ConnectionContext, args: Args) -> None:
    subscriptions = connection.subscriptions
    _confirm(connection, args[0], args[1:] or list(subscriptions.channels), subscriptions.unsubscribe)


@control("punsubscribe", -1)
def punsubscribe(connection: ConnectionContext, args: Args) -> None:
    subscriptions = connection.subscriptions
    _confirm(connection, args[0], args[1:] or list(subscriptions.patterns), subscriptions.unsubscribe_pattern)


def _confirm(connection: ConnectionContext, name: bytes, topics: list[bytes], change: Callable[[bytes], None]) -> None:
    """Reply once for each topic, and once if there is no topic to unsubscribe from."""
    word = name.lower()
    refuse_in_multi(connection, f"{word.decode().upper()} cannot be part of a transaction")
    for topic in topics:
        change(topic)  # raises if there are too many patterns: the topics before it stay
        connection.reply(Push([word, topic, connection.subscriptions.count]))
    if not topics:
        connection.reply(Push([word, None, connection.subscriptions.count]))
