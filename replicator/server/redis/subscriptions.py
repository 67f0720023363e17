"""The subscriptions of a connection: to the events of Redis Sentinel, and to keyspace notifications.

There are no other messages: a subscription to another channel is accepted, but receives none.
"""

from __future__ import annotations

import re
from typing import Protocol

from replicator.patterns import glob
from replicator.server.redis.keyspace_events import CHANNEL_PREFIX
from replicator.server.redis.keyspace_notifications import KeyspaceNotifications
from replicator.server.redis.resp import Encoded, Error, Push, Reply
from replicator.server.redis.sentinel_events import SentinelEvents

WHILE_SUBSCRIBED = frozenset((b"subscribe", b"unsubscribe", b"psubscribe", b"punsubscribe", b"ping", b"quit", b"reset"))


def refusal(command: bytes) -> Error:
    return Error(
        f"ERR Can't execute '{command.decode()}': only (P|S)SUBSCRIBE / (P|S)UNSUBSCRIBE / PING / QUIT / RESET are "
        "allowed in this context"
    )


class Subscriber(Protocol):
    """A connection."""

    protocol: int

    def push(self, reply: Reply) -> None: ...

    def disconnect(self, reason: str) -> None: ...


class Subscriptions:
    def __init__(self, sentinel: SentinelEvents, keyspace: KeyspaceNotifications, subscriber: Subscriber) -> None:
        self.channels: dict[bytes, None] = {}
        self.patterns: dict[bytes, re.Pattern[bytes]] = {}
        self._sentinel = sentinel
        self._keyspace = keyspace
        self._subscriber = subscriber
        self._others = 0  # channels and patterns that are not those of keyspace notifications

    @property
    def count(self) -> int:
        return len(self.channels) + len(self.patterns)

    @property
    def protocol(self) -> int:
        return self._subscriber.protocol

    def restrict(self, protocol: int) -> bool:
        """Whether only `WHILE_SUBSCRIBED` may run: in RESP2 a message looks like a reply."""
        return protocol == 2 and bool(self.channels or self.patterns)

    def subscribe(self, channel: bytes) -> None:
        if channel in self.channels:
            return
        if channel.startswith(CHANNEL_PREFIX):
            self._keyspace.add_channel(channel, self)
        else:
            self._join()
        self.channels[channel] = None

    def subscribe_pattern(self, pattern: bytes) -> None:
        """Raises `BadRequest` if there are too many at this node."""
        if pattern in self.patterns:
            return
        if pattern.startswith(CHANNEL_PREFIX):
            self._keyspace.add_pattern(pattern, self)
        else:
            self._join()
        self.patterns[pattern] = glob(pattern)

    def unsubscribe(self, channel: bytes) -> None:
        if channel not in self.channels:
            return
        del self.channels[channel]
        if channel.startswith(CHANNEL_PREFIX):
            self._keyspace.remove_channel(channel, self)
        else:
            self._leave()

    def unsubscribe_pattern(self, pattern: bytes) -> None:
        if pattern not in self.patterns:
            return
        del self.patterns[pattern]
        if pattern.startswith(CHANNEL_PREFIX):
            self._keyspace.remove_pattern(pattern, self)
        else:
            self._leave()

    def clear(self) -> None:
        for channel in list(self.channels):
            self.unsubscribe(channel)
        for pattern in list(self.patterns):
            self.unsubscribe_pattern(pattern)

    def publish(self, channel: bytes, message: bytes) -> None:
        if channel in self.channels:
            self.deliver(Push([b"message", channel, message]))
        for pattern, compiled in self.patterns.items():
            if compiled.match(channel):
                self.deliver(Push([b"pmessage", pattern, channel, message]))

    def deliver(self, messages: Push | Encoded) -> None:
        self._subscriber.push(messages)

    def disconnect(self, reason: str) -> None:
        self.clear()
        self._subscriber.disconnect(reason)

    def _join(self) -> None:
        self._others += 1
        self._sentinel.add(self)

    def _leave(self) -> None:
        self._others -= 1
        if not self._others:
            self._sentinel.remove(self)
