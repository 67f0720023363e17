"""Rebuilds the store of a node that has found it damaged, from a snapshot or from the start of the log.

The steps are those of `store.replacement`, the decisions those of `protocol.healing`. The node does not run meanwhile.
Afterwards another one starts, with a new incarnation: nothing that the former one has acked counts for it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol, TypeVar

from replicator.errors import (
    BrokerUnavailable,
    ConfigError,
    ReplicatorError,
    RepositoryUnavailable,
    SnapshotError,
    StoreError,
    StoreFull,
    StoreUnreadable,
)
from replicator.intervals import NODE_RETRY_MS, SNAPSHOT_POLL_MS
from replicator.log.port import Log
from replicator.node.clock import Clock
from replicator.node.log_start import continues_another
from replicator.node.node import Node
from replicator.node.past import log_holds
from replicator.node.replica import Replica
from replicator.position import BEFORE_LOG, Offset
from replicator.protocol.healing import (
    START_OF_LOG,
    Attempt,
    Cause,
    Damage,
    GiveUp,
    Heal,
    Wanted,
    cause_of,
    mismatch,
    plan,
)
from replicator.protocol.log_state import LogState
from replicator.store import replacement, snapshot
from replicator.store.meta import FORMAT
from replicator.store.snapshot import Manifest

logger = logging.getLogger(__name__)

T = TypeVar("T")

Report = Callable[[str], None]
"""Called with what is done, or waited for, and why."""


class SnapshotSource(Protocol):
    """Where the snapshots are. All methods may block, and are called in a worker thread.

    Both raise `RepositoryUnavailable`, and `ConfigError` (access denied).
    """

    @property
    def place(self) -> str:
        """Where they are, for people."""
        ...

    def listed(self) -> Sequence[Manifest]:
        """The complete ones, the highest offset first. Those that cannot be read are left out."""
        ...

    def restore(self, name: str, store: Path) -> None:
        """Put a copy that is as its manifest says into the empty folder of a store.

        Also raises `SnapshotError`, `StoreError`.
        """
        ...


class HealingGivenUp(ReplicatorError):
    """Only an operator can help; the error says how."""


async def run_until_damaged(running: asyncio.Task[None], node: Node, replica: Replica, healer: Healer) -> Damage:
    """Wait until the store of a node must be rebuilt, and mark it. Raises what the node does if it ends."""
    while True:
        damaged = asyncio.create_task(node.damaged())
        try:
            await asyncio.wait([running, damaged], return_when=asyncio.FIRST_COMPLETED)
        finally:
            damaged.cancel()
        if running.done():
            running.result()
        try:
            damage = await healer.examine(damaged.result(), replica.state)
        except HealingGivenUp as error:
            node.give_up(error)
        else:
            healer.mark(damage)
            return damage


class Restored(NamedTuple):
    source: str
    offset: Offset


class Healer:
    def __init__(
        self, folder: Path, cluster: str, log: Log, snapshots: SnapshotSource, clock: Clock, report: Report
    ) -> None:
        """`folder`: of the node."""
        self._folder = folder
        self._cluster = cluster
        self._log = log
        self._snapshots = snapshots
        self._clock = clock
        self._report = report

    @property
    def heals(self) -> Sequence[Heal]:
        """The last ones of this node, the latest last."""
        return replacement.heals(self._folder)

    async def examine(self, error: ReplicatorError, state: LogState) -> Damage:
        """What is wrong with the store that has read the log up to `state`, and whether another one helps.

        Raises `HealingGivenUp`.
        """
        cause = cause_of(error)
        if cause is Cause.SUSPECTED:
            if await self._holds(state, error) is not False:
                raise HealingGivenUp(str(error))
            cause = Cause.TRUNCATED
        if cause is None:
            raise HealingGivenUp(str(error))
        end = await self._retried(self._log.end) if cause is Cause.TRUNCATED else None
        damage = Damage(
            cause,
            str(error),
            self._clock.wall_us() // 1000,
            state.offset,
            state.timeline.hex(),
            getattr(error, "seq", None),
            end,
        )
        if isinstance(decision := self._plan(damage), GiveUp):
            raise HealingGivenUp(decision.why)
        return damage

    def unreadable(self, error: StoreUnreadable) -> Damage:
        """The store could not be opened. It is marked."""
        damage = Damage(Cause.UNREADABLE, str(error), self._clock.wall_us() // 1000)
        self.mark(damage)
        return damage

    def mark(self, damage: Damage) -> None:
        """The store is not opened any more. If it cannot be marked, a process that opens it finds the damage again."""
        try:
            replacement.mark_damaged(self._folder, damage)
        except StoreError as error:
            logger.error("%s", error)

    async def _holds(self, state: LogState, error: ReplicatorError) -> bool | None:
        """As `log_holds`; True if the log is damaged there, too."""
        try:
            return await self._retried(lambda: log_holds(self._log, state))
        except ReplicatorError as other:
            logger.warning("the log cannot be compared with the store (%s), after: %s", other, error)
            return True

    async def heal(self, damage: Damage) -> Heal:
        """Replace the store, which is not open. Waits for Kafka, for space, and for a snapshot that can be used.

        Raises `HealingGivenUp`, `LogDamage`.
        """
        decision = self._plan(damage)
        if isinstance(decision, GiveUp):
            raise HealingGivenUp(decision.why)
        logger.critical("the store of this node is rebuilt: %s", damage.error)
        if decision.delay_ms:
            self._report(f"{damage.error}. The store is rebuilt in {decision.delay_ms / 1000:.0f} s")
            await self._clock.sleep(decision.delay_ms)
        self._report(f"{damage.error}. The store is being rebuilt")
        restored = await self._restored(damage, decision)
        heal = Heal(damage, restored.source, restored.offset, self._clock.wall_us() // 1000)
        await self._with_space(damage, lambda: replacement.complete(self._folder, heal))
        logger.warning(
            "the store was rebuilt from %s; the former one is in %s",
            f"snapshot {restored.source}" if restored.source else "the start of the log",
            replacement.quarantined(self._folder),
        )
        if heal.lost:
            logger.critical(
                "Kafka has lost %s, which this node had read: their writes are gone, but for the former store",
                heal.describe_lost(),
            )
        return heal

    def _plan(self, damage: Damage) -> Attempt | GiveUp:
        return plan(damage, self.heals, self._clock.wall_us() // 1000)

    async def _restored(self, damage: Damage, attempt: Attempt) -> Restored:
        """The new store is in its folder. Waits until that is possible."""
        unusable: dict[str, str] = {}  # by name of the snapshot: why; these are not read again
        while True:
            start = await self._retried(self._log.start)
            end = await self._retried(self._log.end)
            wanted = Wanted(self._cluster, self._log.identity, damage.timeline, FORMAT, start, end)
            reasons = {**unusable}
            try:
                for manifest in await asyncio.to_thread(self._snapshots.listed):
                    name = manifest.name
                    if name in attempt.excluded:
                        reasons[name] = "a store that was restored from it has the same damage"
                    elif name not in unusable:
                        why = mismatch(manifest, wanted)
                        if why is None and await self._try(damage, manifest, unusable):
                            return Restored(name, Offset(manifest.offset))
                        reasons[name] = why or unusable[name]
            except (RepositoryUnavailable, ConfigError) as error:
                reasons = {self._snapshots.place: str(error)}
            if START_OF_LOG not in attempt.excluded and await self._retried(self._log_has_all):
                await self._with_space(damage, lambda: replacement.begin(self._folder))
                return Restored(START_OF_LOG, BEFORE_LOG)
            self._report(f"{damage.error}. {self._missing(start, reasons)}")
            await self._clock.sleep(SNAPSHOT_POLL_MS)

    async def _log_has_all(self) -> bool:
        """Whether a store can be built from the log alone."""
        return await self._log.start() == 0 and not await continues_another(self._log)

    def _missing(self, start: Offset, reasons: dict[str, str]) -> str:
        found = "; ".join(f"{name}: {why}" for name, why in list(reasons.items())[:3])
        return (
            f"The store cannot be rebuilt yet: the log begins at offset {start}, and there is no snapshot in "
            f"{self._snapshots.place} that can be used{f' ({found})' if found else ''}. Take one at another node "
            "(`replicator snapshot take --node ID`), or copy one there: this node tries again"
        )

    async def _try(self, damage: Damage, manifest: Manifest, unusable: dict[str, str]) -> bool:
        """Restore a snapshot that the log holds. Returns whether it could be used; else `unusable` has the reason."""
        name, new = manifest.name, self._folder / replacement.NEW
        try:
            if manifest.state is not None:
                await self._check_in_log(manifest.state)  # before it is transferred, which may take long
            self._report(f"{damage.error}. The store is being rebuilt from snapshot {name}")
            await self._with_space(damage, lambda: self._restore(manifest))
            meta = await asyncio.to_thread(snapshot.meta_of, new)
            await self._check_in_log(meta.state)
            await asyncio.to_thread(snapshot.check_content, new)
        except SnapshotError as error:
            logger.warning("snapshot %s cannot be used: %s", name, error)
            unusable[name] = str(error)
            return False
        return True

    async def _check_in_log(self, state: LogState) -> None:
        """Raises `SnapshotError`, `LogDamage`."""
        if await self._retried(lambda: log_holds(self._log, state)) is False:
            raise SnapshotError("the log does not hold what it contains")

    def _restore(self, manifest: Manifest) -> None:
        try:
            self._snapshots.restore(manifest.name, replacement.begin(self._folder))
        except OSError as error:
            raise replacement.file_error(self._folder, error) from error

    async def _with_space(self, damage: Damage, work: Callable[[], object]) -> None:
        """In a worker thread, repeated while the disk is full. Raises what `work` does."""
        while True:
            try:
                await asyncio.to_thread(work)
            except StoreFull as error:
                if await asyncio.to_thread(replacement.discard_quarantined, self._folder):
                    logger.warning("%s. The store that was replaced before is deleted", error)
                    continue
                self._report(f"{damage.error}. {error}")
                await self._clock.sleep(SNAPSHOT_POLL_MS)
            else:
                return

    async def _retried(self, request: Callable[[], Awaitable[T]]) -> T:
        """Repeated until Kafka answers."""
        while True:
            try:
                return await request()
            except BrokerUnavailable as error:
                self._report(str(error))
                await self._clock.sleep(NODE_RETRY_MS)
