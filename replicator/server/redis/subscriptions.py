"""Subscriptions to the events of Redis Sentinel, such as a new leader, and to keyspace notifications.

There are no other messages: a subscription to another channel is accepted, but receives none.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from typing import Protocol

from replicator.intervals import TOPOLOGY_POLL_S
from replicator.patterns import glob
from replicator.server.redis.keyspace_events import TOPIC_PREFIX
from replicator.server.redis.notifications import KeyspaceEvents
from replicator.server.redis.resp import Encoded, Error, Push, Reply
from replicator.server.redis.topology import Topology, events

WHILE_SUBSCRIBED = frozenset((b"subscribe", b"unsubscribe", b"psubscribe", b"punsubscribe", b"ping", b"quit", b"reset"))


class Events:
    """Observes the cluster while there are subscribers, and publishes its changes."""

    def __init__(self, cluster: str, observe: Callable[[], Topology]) -> None:
        self._cluster = cluster
        self._observe = observe
        self._listeners: set[Subscriptions] = set()
        self._task: asyncio.Task[None] | None = None

    @property
    def watching(self) -> bool:
        return self._task is not None

    def add(self, listener: Subscriptions) -> None:
        self._listeners.add(listener)
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._watch(self._observe()))

    def remove(self, listener: Subscriptions) -> None:
        self._listeners.discard(listener)
        if self._task is not None and not self._listeners:
            self._task.cancel()
            self._task = None

    def publish(self, channel: bytes, message: bytes) -> None:
        for listener in list(self._listeners):
            listener.publish(channel, message)

    async def _watch(self, known: Topology) -> None:
        while True:
            await asyncio.sleep(TOPOLOGY_POLL_S)
            seen = self._observe()
            if seen.leader is None:  # there is no successor yet
                seen = seen._replace(leader=known.leader, replicas=known.replicas)
            for channel, message in events(self._cluster, known, seen):
                self.publish(channel.encode(), message.encode())
            known = seen


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
    """Of one connection."""

    def __init__(self, source: Events, keyspace: KeyspaceEvents, subscriber: Subscriber) -> None:
        self.channels: dict[bytes, None] = {}
        self.patterns: dict[bytes, re.Pattern[bytes]] = {}
        self._source = source
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
        if channel.startswith(TOPIC_PREFIX):
            self._keyspace.add_channel(channel, self)
        else:
            self._join()
        self.channels[channel] = None

    def subscribe_pattern(self, pattern: bytes) -> None:
        """Raises `BadRequest` if there are too many at this node."""
        if pattern in self.patterns:
            return
        if pattern.startswith(TOPIC_PREFIX):
            self._keyspace.add_pattern(pattern, self)
        else:
            self._join()
        self.patterns[pattern] = glob(pattern)

    def unsubscribe(self, channel: bytes) -> None:
        if channel not in self.channels:
            return
        del self.channels[channel]
        if channel.startswith(TOPIC_PREFIX):
            self._keyspace.remove_channel(channel, self)
        else:
            self._leave()

    def unsubscribe_pattern(self, pattern: bytes) -> None:
        if pattern not in self.patterns:
            return
        del self.patterns[pattern]
        if pattern.startswith(TOPIC_PREFIX):
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
        self._source.add(self)

    def _leave(self) -> None:
        self._others -= 1
        if not self._others:
            self._source.remove(self)
