"""Subscribing to events (`subscriptions`)."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from replicator.errors import BadRequest
from replicator.server.redis.commands.registry import Args, control
from replicator.server.redis.connection import Session
from replicator.server.redis.resp import Push, Reply


@control("subscribe", -2)
def subscribe(session: Session, args: Args) -> Reply:
    _confirm(session, args[0], args[1:], session.subscriptions.subscribe)
    return None


@control("psubscribe", -2)
def psubscribe(session: Session, args: Args) -> Reply:
    _confirm(session, args[0], args[1:], session.subscriptions.subscribe_pattern)
    return None


@control("unsubscribe", -1)
def unsubscribe(session: Session, args: Args) -> Reply:
    subscriptions = session.subscriptions
    _confirm(session, args[0], args[1:] or list(subscriptions.channels), subscriptions.unsubscribe)
    return None


@control("punsubscribe", -1)
def punsubscribe(session: Session, args: Args) -> Reply:
    subscriptions = session.subscriptions
    _confirm(session, args[0], args[1:] or list(subscriptions.patterns), subscriptions.unsubscribe_pattern)
    return None


def _confirm(session: Session, name: bytes, topics: Iterable[bytes], change: Callable[[bytes], None]) -> None:
    """One answer for each; one also for leaving all of none."""
    word = name.lower()
    if session.multi.open:
        session.multi.spoil()
        raise BadRequest(f"{word.decode().upper()} cannot be part of a transaction")
    told = False
    for topic in topics:
        change(topic)
        session.answer(Push([word, topic, session.subscriptions.count]))
        told = True
    if not told:
        session.answer(Push([word, None, session.subscriptions.count]))
