"""Sends keyspace notifications to their subscribers.

While a record is applied, it is only queued. Its events are matched and sent in slices of time, in between which the
event loop gets to everything else. Subscriptions are queued behind the records that were applied before them.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections import Counter, deque
from collections.abc import Callable, Generator, Sequence
from typing import NamedTuple, Protocol, TypeAlias

from replicator.errors import BadRequest
from replicator.limits import (
    EVENT_BYTES_AT_ONCE,
    EVENT_SLICE_MS,
    JOINED_EVENT_BYTES,
    MAX_EVENT_PATTERNS,
    MAX_EVENT_QUEUE_BYTES,
    SLICE_MS,
)
from replicator.patterns import glob
from replicator.records.types import Single, Write
from replicator.server.backend import Backend
from replicator.server.redis.keyspace_events import KEYEVENT, KEYSPACE, events_of
from replicator.server.redis.resp import Encoded

logger = logging.getLogger(__name__)

_SHARED_TOPICS = 8
"""Listeners with more topics are not grouped: to compare their topics would take longer than to join the messages."""

_CHANGE_BYTES = 250
"""About what the objects of a change take, besides its values."""


class Listener(Protocol):
    """A connection that subscribes."""

    @property
    def protocol(self) -> int: ...

    def deliver(self, messages: Encoded) -> None: ...

    def disconnect(self, reason: str) -> None:
        """It also unsubscribes from all."""
        ...


class _Topic(NamedTuple):
    is_pattern: bool
    name: bytes


class _Group:
    """Listeners with the same topics. They are sent the same messages, which are joined once."""

    def __init__(self, topics: set[_Topic], *, shared: bool) -> None:
        self.topics = topics  # those of a shared group never change
        self.shared = shared  # otherwise it has one listener, and no other will join it
        self.listeners: dict[Listener, None] = {}
        self.messages: list[bytes] = []  # encoded, without the first byte, in which the protocols differ
        self.unsent: dict[Listener, None] | None = None  # None: more messages may be added before they are sent
        self._joined: dict[int, Encoded] = {}  # by protocol, while they are sent

    def encoded(self, protocol: int) -> Encoded:
        found = self._joined.get(protocol)
        if found is None:
            kind = b"*" if protocol == 2 else b">"
            found = Encoded(kind + kind.join(self.messages))
            if self.unsent is not None:
                self._joined[protocol] = found
        return found

    def clear(self) -> None:
        self.messages, self.unsent, self._joined = [], None, {}


class _Applied(NamedTuple):
    """A record, or some transactions of it, whose events are to be sent."""

    written_ms: int
    bodies: Sequence[Single]
    size: int


class _Subscribed(NamedTuple):
    """A subscription that begins when the records before it in the queue are done."""

    topic: _Topic
    listener: Listener


_Steps: TypeAlias = Generator[int, None, None]
"""Work in short steps. Each yields the number of bytes that it has sent."""


class KeyspaceNotifications:
    """Publishes what is applied at this node to the subscribers of keyspace notifications.

    It listens to the node while there are any. If more waits than `MAX_EVENT_QUEUE_BYTES`, all are disconnected: they
    have to know that they have missed something.
    """

    def __init__(self, backend: Backend, clock: Callable[[], float] = time.monotonic) -> None:
        self._backend = backend
        self._clock = clock
        self._count = 0  # subscriptions, also those that are queued
        self._pattern_counts: Counter[bytes] = Counter()  # subscriptions to each pattern
        self._matchers: tuple[tuple[bytes, re.Pattern[bytes]], ...] = ()  # of all patterns
        self._event_patterns: dict[bytes, list[bytes]] = {}  # those that match, by channel of a kind of event

        self._channels: dict[bytes, dict[_Group, None]] = {}
        self._patterns: dict[bytes, dict[_Group, None]] = {}
        self._groups: dict[Listener, _Group] = {}
        self._shared: dict[frozenset[_Topic], _Group] = {}

        self._queue: deque[_Applied | _Subscribed] = deque()
        self._queued_bytes = 0  # of what was applied
        self._subscribing: dict[_Subscribed, _Subscribed] = {}  # those in the queue that were not taken back
        self._overflown = False  # nothing is queued until all listeners are disconnected
        self._filled: dict[_Group, None] = {}  # groups with messages
        self._collected_bytes = 0  # of the messages that were added to groups since the last were sent
        self._steps: _Steps | None = None  # while there is anything to do; then `_run` is scheduled

    @property
    def listening(self) -> bool:
        return bool(self._count)

    # Subscriptions

    def add_channel(self, channel: bytes, listener: Listener) -> None:
        self._add(_Topic(False, channel), listener)

    def add_pattern(self, pattern: bytes, listener: Listener) -> None:
        """Raises `BadRequest` if the node has too many."""
        if pattern not in self._pattern_counts:
            if len(self._pattern_counts) >= MAX_EVENT_PATTERNS:
                raise BadRequest(
                    f"clients of this node have subscribed to {MAX_EVENT_PATTERNS} patterns of keyspace notifications "
                    "already: use channels, or fewer patterns"
                )
            self._set_matchers((*self._matchers, (pattern, glob(pattern))))
        self._pattern_counts[pattern] += 1
        self._add(_Topic(True, pattern), listener)

    def remove_channel(self, channel: bytes, listener: Listener) -> None:
        self._remove(_Topic(False, channel), listener)

    def remove_pattern(self, pattern: bytes, listener: Listener) -> None:
        self._pattern_counts[pattern] -= 1
        if not self._pattern_counts[pattern]:
            del self._pattern_counts[pattern]
            self._set_matchers(tuple(it for it in self._matchers if it[0] != pattern))
        self._remove(_Topic(True, pattern), listener)

    def _set_matchers(self, matchers: tuple[tuple[bytes, re.Pattern[bytes]], ...]) -> None:
        self._matchers, self._event_patterns = matchers, {}

    def _add(self, topic: _Topic, listener: Listener) -> None:
        self._count += 1
        self._backend.change_listener = self.publish
        if self._steps is None:
            self._join(topic, listener)
        else:
            subscribed = _Subscribed(topic, listener)
            self._subscribing[subscribed] = subscribed
            self._queue.append(subscribed)

    def _remove(self, topic: _Topic, listener: Listener) -> None:
        self._count -= 1
        if self._subscribing.pop(_Subscribed(topic, listener), None) is None:
            self._leave(topic, listener)
        if not self._count:
            self._backend.change_listener = None
            self._queue.clear()
            self._queued_bytes = 0

    # Groups

    def _join(self, topic: _Topic, listener: Listener) -> None:
        """While no group has messages: otherwise it would receive some again, or some from before it subscribed."""
        group = self._groups.get(listener)
        if group is not None and not group.shared:
            group.topics.add(topic)
            self._index(topic).setdefault(topic.name, {})[group] = None
            return
        topics = {topic}
        if group is not None:
            topics |= group.topics
            self._leave_group(listener, group)
        if len(topics) > _SHARED_TOPICS:
            self._enter_group(listener, _Group(topics, shared=False))
            return
        key = frozenset(topics)
        group = self._shared.get(key)
        if group is None:
            group = self._shared[key] = _Group(topics, shared=True)
        self._enter_group(listener, group)

    def _leave(self, topic: _Topic, listener: Listener) -> None:
        """It receives at once what was collected for it, so that nothing comes after the reply to its command."""
        group = self._groups[listener]
        self._settle(listener, group)
        remaining = group.topics - {topic} if group.shared else group.topics
        if group.shared:
            self._leave_group(listener, group)
            if remaining:  # the group of these topics may have messages that it has received already
                self._enter_group(listener, _Group(remaining, shared=False))
            return
        self._forget_topic(topic, group)
        remaining.discard(topic)
        if not remaining:
            self._leave_group(listener, group)

    def _settle(self, listener: Listener, group: _Group) -> None:
        if not group.messages:
            return
        if group.unsent is None:
            listener.deliver(group.encoded(listener.protocol))
            if not group.shared:
                group.clear()
                self._filled.pop(group, None)
        elif listener in group.unsent:
            del group.unsent[listener]
            listener.deliver(group.encoded(listener.protocol))

    def _enter_group(self, listener: Listener, group: _Group) -> None:
        if not group.listeners:
            for topic in group.topics:
                self._index(topic).setdefault(topic.name, {})[group] = None
        group.listeners[listener] = None
        self._groups[listener] = group

    def _leave_group(self, listener: Listener, group: _Group) -> None:
        del self._groups[listener], group.listeners[listener]
        if group.listeners:
            return
        for topic in group.topics:
            self._forget_topic(topic, group)
        if group.shared:
            del self._shared[frozenset(group.topics)]
        group.clear()
        self._filled.pop(group, None)

    def _index(self, topic: _Topic) -> dict[bytes, dict[_Group, None]]:
        return self._patterns if topic.is_pattern else self._channels

    def _forget_topic(self, topic: _Topic, group: _Group) -> None:
        index = self._index(topic)
        groups = index[topic.name]
        del groups[group]
        if not groups:
            del index[topic.name]

    # Events

    def publish(self, written_us: int, bodies: Sequence[Single]) -> None:
        """A `ChangeListener`."""
        if self._overflown:
            return
        size = sum(_size(body) for body in bodies if type(body) is Write)
        if not size:
            return
        if self._queued_bytes and self._queued_bytes + size > MAX_EVENT_QUEUE_BYTES:
            logger.warning(
                "disconnecting the subscribers of keyspace notifications: changes of more than %d bytes wait for them",
                MAX_EVENT_QUEUE_BYTES,
            )
            self._overflown = True
            self._queue.clear()
            self._queued_bytes = 0
        else:
            self._queue.append(_Applied(written_us // 1000, bodies, size))
            self._queued_bytes += size
        if self._steps is None:
            self._steps = self._work()
            asyncio.get_running_loop().call_soon(self._run)

    def _run(self) -> None:
        """For one slice of time, or a longer one if much is queued: commands must not write faster than this sends."""
        clock, sent, ended = self._clock, 0, True
        is_behind = self._queued_bytes > MAX_EVENT_QUEUE_BYTES // 4
        until_s = clock() + (EVENT_SLICE_MS if is_behind else SLICE_MS) / 1000
        assert self._steps is not None
        try:
            for size in self._steps:
                sent += size
                if sent >= EVENT_BYTES_AT_ONCE or clock() >= until_s:
                    asyncio.get_running_loop().call_soon(self._run)
                    ended = False
                    return
        finally:
            if ended:
                self._steps = None

    def _work(self) -> _Steps:
        queue = self._queue
        while True:
            if self._overflown:
                yield from self._disconnect_all()
            elif not queue:
                yield from self._send()
                if not queue and not self._overflown:
                    return
            elif type(item := queue.popleft()) is _Applied:
                self._queued_bytes -= item.size
                yield from self._collect(item)
            elif type(item) is _Subscribed:
                yield from self._send()
                if self._subscribing.get(item) is item:
                    del self._subscribing[item]
                    self._join(item.topic, item.listener)

    def _collect(self, applied: _Applied) -> _Steps:
        for body in applied.bodies:
            if type(body) is not Write:
                continue
            yield 0
            for row, name in events_of(body.changes, applied.written_ms):
                yield from self._collect_message(KEYSPACE + row, name)
                yield from self._collect_message(KEYEVENT + name, row)
                if self._collected_bytes >= JOINED_EVENT_BYTES:
                    yield from self._send()
                if self._overflown or not self._groups:
                    return

    def _collect_message(self, channel: bytes, message: bytes) -> _Steps:
        groups = self._channels.get(channel)
        if groups:
            self._fill(
                groups,
                b"3\r\n$7\r\nmessage\r\n$%d\r\n%b\r\n$%d\r\n%b\r\n" % (len(channel), channel, len(message), message),
            )
        yield 0
        if not self._matchers:
            return
        matching = self._event_patterns.get(channel)
        if matching is None:
            matching, event_patterns = [], self._event_patterns
            for pattern, compiled in self._matchers:
                if compiled.match(channel):
                    matching.append(pattern)
                yield 0
            if channel.startswith(KEYEVENT):  # they are few
                event_patterns[channel] = matching
        for pattern in matching:
            groups = self._patterns.get(pattern)
            if groups:
                self._fill(
                    groups,
                    b"4\r\n$8\r\npmessage\r\n$%d\r\n%b\r\n$%d\r\n%b\r\n$%d\r\n%b\r\n"
                    % (len(pattern), pattern, len(channel), channel, len(message), message),
                )
                yield 0

    def _fill(self, groups: dict[_Group, None], message: bytes) -> None:
        for group in groups:
            if not group.messages:
                self._filled[group] = None
            group.messages.append(message)
        self._collected_bytes += len(message)

    def _send(self) -> _Steps:
        self._collected_bytes = 0
        filled = self._filled
        while filled:
            group = next(iter(filled))
            group.unsent = dict(group.listeners)
            while group.unsent:
                listener, _ = group.unsent.popitem()
                messages = group.encoded(listener.protocol)
                listener.deliver(messages)
                yield len(messages.data)
            group.clear()
            filled.pop(group, None)

    def _disconnect_all(self) -> _Steps:
        for group in self._filled:
            group.clear()
        self._filled.clear()
        while self._count:
            listener = next(iter(self._groups)) if self._groups else next(iter(self._subscribing)).listener
            listener.disconnect("keyspace notifications could not be sent as fast as keys changed")
            yield 0
        self._overflown = False


def _size(write: Write) -> int:
    return sum([_CHANGE_BYTES + len(it.old or b"") + len(it.new or b"") for it in write.changes])
