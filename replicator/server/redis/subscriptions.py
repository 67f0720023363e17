"""Subscriptions to the events of Redis Sentinel, such as a new leader, and to keyspace notifications.

There are no other messages: a subscription to another channel is accepted, but receives none.
"""

from __future__ import annotations

import asyncio
import re
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Protocol

from replicator.errors import BadRequest
from replicator.intervals import TOPOLOGY_POLL_S
from replicator.limits import MAX_EVENT_PATTERNS
from replicator.patterns import glob
from replicator.records.types import Single, Write
from replicator.server.backend import Backend
from replicator.server.redis.keyspace_events import KEYEVENT, KEYSPACE, CHANNEL_PREFIX, events_of
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


class KeyspaceEvents:
    """Publishes what is applied at this node to the subscribers of keyspace notifications.

    It listens to the node while there are any. The messages of a batch are sent to each of them at once.
    """

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._channels: dict[bytes, set[Subscriptions]] = {}
        self._patterns: dict[bytes, set[Subscriptions]] = {}
        self._compiled: dict[bytes, re.Pattern[bytes]] = {}  # those of `_patterns`

    @property
    def listening(self) -> bool:
        return bool(self._channels or self._patterns)

    def add_channel(self, channel: bytes, listener: Subscriptions) -> None:
        self._channels.setdefault(channel, set()).add(listener)
        self._backend.change_listener = self.publish

    def add_pattern(self, pattern: bytes, listener: Subscriptions) -> None:
        """Raises `BadRequest` if the node has too many."""
        if pattern not in self._patterns:
            if len(self._patterns) >= MAX_EVENT_PATTERNS:
                raise BadRequest(
                    f"clients of this node have subscribed to {MAX_EVENT_PATTERNS} patterns of keyspace notifications "
                    "already: use channels, or fewer patterns"
                )
            self._compiled[pattern] = glob(pattern)
        self._patterns.setdefault(pattern, set()).add(listener)
        self._backend.change_listener = self.publish

    def remove_channel(self, channel: bytes, listener: Subscriptions) -> None:
        self._remove(self._channels, channel, listener)

    def remove_pattern(self, pattern: bytes, listener: Subscriptions) -> None:
        if self._remove(self._patterns, pattern, listener):
            del self._compiled[pattern]

    def publish(self, written_us: int, bodies: Sequence[Single]) -> None:
        """A `ChangeListener`."""
        batch = _Batch(self._channels, self._patterns, self._compiled)
        for body in bodies:
            if type(body) is Write:
                for row, name in events_of(body.changes, written_us // 1000):
                    batch.add(KEYSPACE + row, name)
                    batch.add(KEYEVENT + name, row)
        batch.send()

    def _remove(self, topics: dict[bytes, set[Subscriptions]], topic: bytes, listener: Subscriptions) -> bool:
        """Whether nobody subscribes to the topic any more."""
        listeners = topics[topic]
        listeners.discard(listener)
        if listeners:
            return False
        del topics[topic]
        if not self.listening:
            self._backend.change_listener = None
        return True


class _Batch:
    """The messages of one batch of changes. They are encoded here: `resp.encode` would take most of the time."""

    def __init__(
        self,
        channels: dict[bytes, set[Subscriptions]],
        patterns: dict[bytes, set[Subscriptions]],
        compiled: dict[bytes, re.Pattern[bytes]],
    ) -> None:
        self._channels = channels
        self._patterns = patterns
        self._compiled = compiled.items()
        self._matching: dict[bytes, list[bytes]] = {}  # patterns by channel: events have few names
        self._messages: defaultdict[Subscriptions, list[bytes]] = defaultdict(list)  # encoded

    def add(self, channel: bytes, message: bytes) -> None:
        listeners = self._channels.get(channel)
        if listeners:
            rest = b"$7\r\nmessage\r\n$%d\r\n%b\r\n$%d\r\n%b\r\n" % (len(channel), channel, len(message), message)
            self._add(listeners, b"*3\r\n" + rest, b">3\r\n" + rest)
        if self._compiled:
            for pattern in self._patterns_of(channel):
                rest = b"$8\r\npmessage\r\n$%d\r\n%b\r\n$%d\r\n%b\r\n$%d\r\n%b\r\n" % (
                    len(pattern),
                    pattern,
                    len(channel),
                    channel,
                    len(message),
                    message,
                )
                self._add(self._patterns[pattern], b"*4\r\n" + rest, b">4\r\n" + rest)

    def send(self) -> None:
        for listener, messages in self._messages.items():
            listener.deliver(Encoded(b"".join(messages)))

    def _patterns_of(self, channel: bytes) -> list[bytes]:
        found = self._matching.get(channel)
        if found is None:
            found = self._matching[channel] = [it for it, compiled in self._compiled if compiled.match(channel)]
        return found

    def _add(self, listeners: set[Subscriptions], resp2: bytes, resp3: bytes) -> None:
        messages = self._messages
        for listener in listeners:
            messages[listener].append(resp2 if listener.protocol == 2 else resp3)


def refusal(command: bytes) -> Error:
    return Error(
        f"ERR Can't execute '{command.decode()}': only (P|S)SUBSCRIBE / (P|S)UNSUBSCRIBE / PING / QUIT / RESET are "
        "allowed in this context"
    )


class Subscriber(Protocol):
    """A connection."""

    protocol: int

    def push(self, reply: Reply) -> None: ...


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

    def _join(self) -> None:
        self._others += 1
        self._source.add(self)

    def _leave(self) -> None:
        self._others -= 1
        if not self._others:
            self._source.remove(self)
