"""Detects that a topic was deleted or recreated while a log on it is open."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable

from replicator.errors import BrokerUnavailable, LogReplaced


class TopicMonitor:
    """Asks Kafka for the id of the topic every `interval_ms`. Once it differs, `check` raises `LogReplaced`."""

    def __init__(
        self, topic: str, identity: str, lookup: Callable[[str], Awaitable[str | None]], interval_ms: int
    ) -> None:
        """`lookup`: the id of a topic, None if it does not exist."""
        self.identity = identity
        self.damage: str | None = None  # once set, never changes again
        self._topic = topic
        self._lookup = lookup
        self._interval_ms = interval_ms
        self._task = asyncio.create_task(self._run())

    def check(self) -> None:
        """Raises `LogReplaced` if the last known id is not `identity`."""
        if self.damage is not None:
            raise LogReplaced(self.damage)

    async def verify(self) -> None:
        """Ask Kafka now. Raises `LogReplaced`, `BrokerUnavailable`."""
        found = await self._lookup(self._topic)
        if found != self.identity and self.damage is None:
            change = "was deleted" if found is None else f"was deleted and recreated (its id is now {found})"
            self.damage = (
                f"topic {self._topic} with id {self.identity} {change}: the log that this store follows no longer "
                "exists. Start a new cluster, or restore one from a snapshot"
            )
        self.check()

    async def close(self) -> None:
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task

    async def _run(self) -> None:
        while self.damage is None:
            await asyncio.sleep(self._interval_ms / 1000)
            # `damage` is stored for `check`. If Kafka does not answer, the requests of the log fail on their own.
            with contextlib.suppress(LogReplaced, BrokerUnavailable):
                await self.verify()
