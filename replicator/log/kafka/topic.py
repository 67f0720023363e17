"""Names of a cluster's topics, and whether a topic is still the one that was opened."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable

from replicator.errors import BrokerUnavailable, LogDamage


def wal_topic(cluster: str) -> str:
    return f"{cluster}.wal"


def acks_topic(cluster: str) -> str:
    return f"{cluster}.acks"


class TopicGuard:
    """Asks for the topic's id now and then. Once it is another one, `check` raises `LogDamage` for good."""

    def __init__(
        self, topic: str, identity: str, lookup: Callable[[str], Awaitable[str | None]], interval_ms: int
    ) -> None:
        self.identity = identity
        self.damage: str | None = None
        self._topic = topic
        self._lookup = lookup
        self._interval_ms = interval_ms
        self._task = asyncio.create_task(self._watch())

    def check(self) -> None:
        if self.damage is not None:
            raise LogDamage(self.damage)

    async def verify(self) -> None:
        """Ask at once. Raises `LogDamage`, `BrokerUnavailable`."""
        found = await self._lookup(self._topic)
        if found != self.identity and self.damage is None:
            fate = "was deleted" if found is None else f"was made anew (its id is {found})"
            self.damage = (
                f"topic {self._topic} with id {self.identity} {fate}: the log that this store follows is gone. "
                "Start a new cluster, or restore one from a snapshot"
            )
        self.check()

    async def close(self) -> None:
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task

    async def _watch(self) -> None:
        while self.damage is None:
            await asyncio.sleep(self._interval_ms / 1000)
            # No answer proves nothing: requests that fail say so by themselves.
            with contextlib.suppress(LogDamage, BrokerUnavailable):
                await self.verify()
