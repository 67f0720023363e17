"""Publishes the events of Redis Sentinel, such as a new leader, to the subscribers at this node."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol

from replicator.intervals import TOPOLOGY_POLL_S
from replicator.server.redis.topology import Topology, events


class Listener(Protocol):
    """The subscriptions of one connection."""

    def publish(self, channel: bytes, message: bytes) -> None:
        """Send the message if the connection has subscribed to the channel, or to a pattern that it matches."""
        ...


class SentinelEvents:
    """Observes the cluster while there are subscribers, and publishes its changes."""

    def __init__(self, cluster: str, observe: Callable[[], Topology]) -> None:
        self._cluster = cluster
        self._observe = observe
        self._listeners: set[Listener] = set()
        self._task: asyncio.Task[None] | None = None

    @property
    def watching(self) -> bool:
        return self._task is not None

    def add(self, listener: Listener) -> None:
        self._listeners.add(listener)
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._watch(self._observe()))

    def remove(self, listener: Listener) -> None:
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
