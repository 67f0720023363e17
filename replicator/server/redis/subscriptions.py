"""Subscriptions to the events of Redis Sentinel, such as a new leader or a leader whose heartbeat timed out.

There are no other messages: a subscription to another channel is accepted, but receives none.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable

from replicator.intervals import TOPOLOGY_POLL_S
from replicator.patterns import glob
from replicator.server.redis.resp import Error, Push, Reply
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


class Subscriptions:
    """Of one connection."""

    def __init__(self, source: Events, push: Callable[[Reply], None]) -> None:
        self.channels: dict[bytes, None] = {}
        self.patterns: dict[bytes, re.Pattern[bytes]] = {}
        self._source = source
        self._push = push

    @property
    def count(self) -> int:
        return len(self.channels) + len(self.patterns)

    def restrict(self, protocol: int) -> bool:
        """Whether only `WHILE_SUBSCRIBED` may run: in RESP2 a message looks like a reply."""
        return protocol == 2 and bool(self.channels or self.patterns)

    def subscribe(self, channel: bytes) -> None:
        self.channels[channel] = None
        self._source.add(self)

    def subscribe_pattern(self, pattern: bytes) -> None:
        self.patterns[pattern] = glob(pattern)
        self._source.add(self)

    def unsubscribe(self, channel: bytes) -> None:
        self.channels.pop(channel, None)
        self._leave_if_empty()

    def unsubscribe_pattern(self, pattern: bytes) -> None:
        self.patterns.pop(pattern, None)
        self._leave_if_empty()

    def clear(self) -> None:
        self.channels.clear()
        self.patterns.clear()
        self._leave_if_empty()

    def publish(self, channel: bytes, message: bytes) -> None:
        if channel in self.channels:
            self._push(Push([b"message", channel, message]))
        for pattern, compiled in self.patterns.items():
            if compiled.match(channel):
                self._push(Push([b"pmessage", pattern, channel, message]))

    def _leave_if_empty(self) -> None:
        if not self.count:
            self._source.remove(self)
