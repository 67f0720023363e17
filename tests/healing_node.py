"""A node on a log in memory that rebuilds its store, as `assembly` runs it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from replicator.errors import ReplicatorError, SnapshotError
from replicator.node.damage import HealHistory
from replicator.node.healing import Healer, run_until_damaged
from replicator.node.health import NodeState
from replicator.store import replacement, snapshot
from replicator.store.snapshot import Manifest
from tests.copies import restore_copy
from tests.memory_cluster import MemoryCluster, RunningNode, until


class SnapshotFolder:
    """`SnapshotSource`: the copies in a folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @property
    def place(self) -> str:
        return str(self._folder)

    def listed(self) -> Sequence[Manifest]:
        found = []
        for manifest in self._folder.glob("[!.]*/manifest.json"):
            with suppress(SnapshotError):
                found.append(snapshot.read_manifest(manifest.parent))
        return sorted(found, key=lambda it: it.offset, reverse=True)

    def restore(self, name: str, store: Path) -> None:
        restore_copy(self._folder / name, store)


class HealingCluster(MemoryCluster):
    """Some of its nodes rebuild their stores."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._healing: list[HealingNode] = []

    def start_healing(self, name: str, priority: int = 0) -> HealingNode:
        node = HealingNode(self, name, priority)
        self._healing.append(node)
        return node

    async def stop(self) -> None:
        for node in self._healing:
            await node.kill()
        await super().stop()


class HealingNode:
    def __init__(self, cluster: MemoryCluster, name: str, priority: int) -> None:
        self.name = name
        self.folder = cluster.folder / name
        self.snapshots = cluster.folder / "snapshots"
        self.history = HealHistory()
        self.running: RunningNode | None = None  # None while the store is rebuilt
        self.reports: list[str] = []
        self.failure: ReplicatorError | None = None
        self._cluster = cluster
        self._priority = priority
        self._task = asyncio.create_task(self._run())

    async def _run(self) -> None:
        cluster = self._cluster
        self.folder.mkdir(parents=True, exist_ok=True)
        replacement.recover(self.folder)
        source = SnapshotFolder(self.snapshots)
        healer = Healer(self.folder, "test", self._cluster.log, source, cluster.clock, self.reports.append)
        damage = replacement.damage_of(self.folder)
        while True:
            if damage is None:
                running = await cluster.start(
                    self.name,
                    priority=self._priority,
                    folder=f"{self.name}/{replacement.STORE}",
                    healed=self.history,
                )
                self.running = running
                replica = running.node._context.replica
                try:
                    damage = await run_until_damaged(running.task, running.node, replica, healer)
                finally:
                    self.running = None
                    if not running.task.done():
                        await running.stop()
            try:
                self.history.note(await healer.heal(damage))
            except ReplicatorError as error:
                self.failure = error
                return
            damage = None

    async def kill(self) -> None:
        self._task.cancel()
        with suppress(asyncio.CancelledError):
            await self._task

    @property
    def state(self) -> NodeState:
        if self.running is not None:
            return self.running.node.state
        return NodeState.FAILED if self.failure else NodeState.HEALING

    @property
    def node(self) -> RunningNode:
        assert self.running is not None
        return self.running

    @property
    def store(self) -> Path:
        return self.folder / replacement.STORE

    async def serving(self) -> None:
        await until(lambda: self.state is NodeState.SERVING)

    async def healed(self, times: int = 1) -> None:
        """Wait until its store was rebuilt so often, and it serves."""
        await until(lambda: sum(self.history.counts.values()) >= times)
        await self.serving()

    def take_snapshot(self) -> snapshot.Manifest:
        self.node.machine.reserve_for_copy()
        return snapshot.take(self.node.machine.copy_to, self.snapshots)
