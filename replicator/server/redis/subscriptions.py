"""Subscriptions to the events of Redis Sentinel, the only messages there are: who leads now, who has fallen silent.

Nobody else publishes; a subscription to another channel is accepted and hears nothing.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable

from replicator.intervals import TOPOLOGY_POLL_S
from replicator.server.redis.commands.scan import glob
from replicator.server.redis.resp import Error, Push, Reply
from replicator.server.redis.topology import Topology, events

WHILE_SUBSCRIBED = frozenset((b"subscribe", b"unsubscribe", b"psubscribe", b"punsubscribe", b"ping", b"quit", b"reset"))


class Events:
    """Looks, while anybody listens, what has become of the cluster, and tells."""

    def __init__(self, cluster: str, look: Callable[[], Topology]) -> None:
        self._cluster = cluster
        self._look = look
        self._listeners: set[Subscriptions] = set()
        self._task: asyncio.Task[None] | None = None

    @property
    def watching(self) -> bool:
        return self._task is not None

    def add(self, listener: Subscriptions) -> None:
        self._listeners.add(listener)
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._watch(self._look()))

    def remove(self, listener: Subscriptions) -> None:
        self._listeners.discard(listener)
        if self._task is not None and not self._listeners:
            self._task.cancel()
            self._task = None

    def publish(self, channel: bytes, message: bytes) -> None:
        for listener in list(self._listeners):
            listener.tell(channel, message)

    async def _watch(self, known: Topology) -> None:
        while True:
            await asyncio.sleep(TOPOLOGY_POLL_S)
            seen = self._look()
            if seen.leader is None:  # the one before has not been replaced yet
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
    """Those of one connection."""

    def __init__(self, source: Events, push: Callable[[Reply], None]) -> None:
        self.channels: dict[bytes, None] = {}
        self.patterns: dict[bytes, re.Pattern[bytes]] = {}
        self._source = source
        self._push = push

    @property
    def count(self) -> int:
        return len(self.channels) + len(self.patterns)

    def restrict(self, protocol: int) -> bool:
        """In RESP2 a message looks like an answer, so a subscriber may ask little else."""
        return protocol == 2 and bool(self.channels or self.patterns)

    def subscribe(self, channel: bytes) -> None:
        self.channels[channel] = None
        self._source.add(self)

    def subscribe_pattern(self, pattern: bytes) -> None:
        self.patterns[pattern] = glob(pattern)
        self._source.add(self)

    def unsubscribe(self, channel: bytes) -> None:
        self.channels.pop(channel, None)
        self._leave_if_silent()

    def unsubscribe_pattern(self, pattern: bytes) -> None:
        self.patterns.pop(pattern, None)
        self._leave_if_silent()

    def clear(self) -> None:
        self.channels.clear()
        self.patterns.clear()
        self._leave_if_silent()

    def tell(self, channel: bytes, message: bytes) -> None:
        if channel in self.channels:
            self._push(Push([b"message", channel, message]))
        for pattern, compiled in self.patterns.items():
            if compiled.match(channel):
                self._push(Push([b"pmessage", pattern, channel, message]))

    def _leave_if_silent(self) -> None:
        if not self.count:
            self._source.remove(self)
