"""Damage of the store that something else than the present role has found, and the stores that were rebuilt."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

from replicator.errors import ReplicatorError
from replicator.protocol.healing import Cause, Heal

HEAL_CAUSES = tuple(cause for cause in Cause if cause is not Cause.SUSPECTED)


class DamageSignal:
    """Ends the role of a node, also that of the leader, when its store is found to be damaged."""

    def __init__(self) -> None:
        self._error: ReplicatorError | None = None
        self._found = asyncio.Event()

    def found(self, error: ReplicatorError) -> None:
        self._error = error
        self._found.set()

    async def raise_when_found(self) -> None:
        await self._found.wait()
        assert self._error is not None
        raise self._error


class HealHistory:
    """The stores that the process of a node has rebuilt. It outlives the nodes that it runs one after the other."""

    def __init__(self, before: Sequence[Heal] = ()) -> None:
        """`before`: by former processes, the latest last."""
        self.last = before[-1] if before else None
        self._counts: dict[Cause, int] = dict.fromkeys(HEAL_CAUSES, 0)

    @property
    def counts(self) -> Mapping[Cause, int]:
        """By this process."""
        return self._counts

    def note(self, heal: Heal) -> None:
        self.last = heal
        self._counts[heal.damage.cause] += 1


NO_HEALS = HealHistory()
