"""Publishes keyspace notifications to the subscribers at this node."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from typing import Protocol

from replicator.errors import BadRequest
from replicator.limits import MAX_EVENT_PATTERNS
from replicator.patterns import glob
from replicator.records.types import Single, Write
from replicator.server.backend import Backend
from replicator.server.redis.keyspace_events import KEYEVENT, KEYSPACE, events_of
from replicator.server.redis.resp import Encoded


class Listener(Protocol):
    """The subscriptions of one connection."""

    @property
    def protocol(self) -> int: ...

    def deliver(self, messages: Encoded) -> None: ...


class KeyspaceNotifications:
    """Publishes the events of what is applied at this node.

    It listens to the node while there are subscribers. The messages of a batch are sent to each of them at once.
    """

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._channels: dict[bytes, set[Listener]] = {}
        self._patterns: dict[bytes, set[Listener]] = {}
        self._compiled: dict[bytes, re.Pattern[bytes]] = {}  # those of `_patterns`

    @property
    def listening(self) -> bool:
        return bool(self._channels or self._patterns)

    def add_channel(self, channel: bytes, listener: Listener) -> None:
        self._channels.setdefault(channel, set()).add(listener)
        self._backend.change_listener = self.publish

    def add_pattern(self, pattern: bytes, listener: Listener) -> None:
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

    def remove_channel(self, channel: bytes, listener: Listener) -> None:
        self._remove(self._channels, channel, listener)

    def remove_pattern(self, pattern: bytes, listener: Listener) -> None:
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

    def _remove(self, listeners_of: dict[bytes, set[Listener]], name: bytes, listener: Listener) -> bool:
        """Whether no connection subscribes to the channel or pattern any more."""
        listeners = listeners_of[name]
        listeners.discard(listener)
        if listeners:
            return False
        del listeners_of[name]
        if not self.listening:
            self._backend.change_listener = None
        return True


class _Batch:
    """The messages of one batch of changes. They are encoded here: `resp.encode` would take most of the time."""

    def __init__(
        self,
        channels: dict[bytes, set[Listener]],
        patterns: dict[bytes, set[Listener]],
        compiled: dict[bytes, re.Pattern[bytes]],
    ) -> None:
        self._channels = channels
        self._patterns = patterns
        self._compiled = compiled.items()
        self._matching: dict[bytes, list[bytes]] = {}  # patterns by channel: events have few names
        self._messages: defaultdict[Listener, list[bytes]] = defaultdict(list)  # encoded

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

    def _add(self, listeners: set[Listener], resp2: bytes, resp3: bytes) -> None:
        messages = self._messages
        for listener in listeners:
            messages[listener].append(resp2 if listener.protocol == 2 else resp3)
