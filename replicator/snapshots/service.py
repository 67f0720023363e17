"""The snapshots of a node: taken when somebody asks for one.

A snapshotter also takes them on a schedule, verifies them, deletes old ones, and trims the log.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

from replicator.errors import ReplicatorError, SnapshotError
from replicator.intervals import REPOSITORY_LOOK_S, SNAPSHOT_REVIEW_S, UNFINISHED_UPLOAD_S
from replicator.log.port import Log, LogExtent
from replicator.node.background import in_daemon_thread
from replicator.node.outage_log import OutageLog
from replicator.node.snapshots import ListedSnapshot, SnapshotProgress, SnapshotReport
from replicator.position import Offset
from replicator.protocol.log_state import LogState
from replicator.protocol.trimming import Need, first_need
from replicator.snapshots.jobs import Jobs
from replicator.snapshots.listing import listed
from replicator.snapshots.repository import Repository
from replicator.snapshots.retention import Kept, Schedule, Since, due, obsolete
from replicator.snapshots.verification import is_in_log
from replicator.store.machine import Machine
from replicator.store.snapshot import Manifest

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class SnapshotSettings:
    schedule: Schedule
    keep: int
    keep_s: int
    trims: bool
    keep_log_bytes: int


class SnapshotService:
    """Implements `node.snapshots.SnapshotControl`."""

    def __init__(
        self,
        machine: Machine,
        log: Log,
        repository: Repository,
        jobs: Jobs,
        settings: SnapshotSettings,
        *,
        is_snapshotter: Callable[[], bool],
        needs: Callable[[], Sequence[Need]],
        trim: Callable[[Offset], Offset],
    ) -> None:
        """`needs` (of others than snapshots) and `trim` block, and raise `BrokerUnavailable` and `ConfigError`."""
        self._machine = machine
        self._log = log
        self._repository = repository
        self._jobs = jobs
        self._settings = settings
        self._is_snapshotter = is_snapshotter
        self._needs = needs
        self._trim = trim
        self._outage = OutageLog(logger, "taking snapshots")
        self._verified: list[ListedSnapshot] = []  # as of the last look
        self._refused: dict[str, str] = {}  # why a verification has failed, by snapshot
        self._started_ms = _now_ms()
        self.report = SnapshotReport()

    @property
    def repository(self) -> str:
        return self._repository.url

    @property
    def progress(self) -> SnapshotProgress | None:
        return self._jobs.progress

    async def take(self) -> Manifest:
        try:
            manifest = await self._jobs.take()
        finally:
            self._machine.forget_dead_readers()
        logger.info("snapshot %s is in %s", manifest.name, self._repository.url)
        self.report = replace(self.report, snapshots=tuple(await self.listed()))
        return manifest

    async def listed(self) -> list[ListedSnapshot]:
        return await in_daemon_thread(self._listed)

    async def run(self) -> None:
        """Look at the repository, and do what a snapshotter does, until cancelled."""
        loop = asyncio.get_running_loop()
        looked_s = -REPOSITORY_LOOK_S
        while True:
            if self._is_snapshotter() or loop.time() - looked_s >= REPOSITORY_LOOK_S:
                looked_s = loop.time()
                await self.look()
            await asyncio.sleep(SNAPSHOT_REVIEW_S)

    async def look(self) -> None:
        """Once."""
        try:
            found = await self.listed()
            self.report = replace(self.report, snapshots=tuple(found))
            if self._is_snapshotter():
                await self._review(found)
        except ReplicatorError as error:
            self._outage.failed(error)
            self.report = replace(self.report, trouble=str(error))
        except Exception as error:
            logger.exception("snapshots")
            self.report = replace(self.report, trouble=repr(error))
        else:
            self._outage.ended()
            self.report = replace(self.report, trouble="")

    async def _review(self, found: Sequence[ListedSnapshot]) -> None:
        """Several snapshotters may do this at the same time: each step can be repeated."""
        state = self._machine.state
        if not state.timeline:
            return
        self._refused = {it.manifest.name: why for it in found if (why := self._refused.get(it.manifest.name))}
        kept = await self._prune(await self._of_this_log(found))  # first, as the repository may be full
        await self._delete_unfinished()
        if await self._renew(kept, state):
            kept = await self._prune(await self._of_this_log(await self.listed()))
        if self._settings.trims:
            await self._trim_below(kept)
        self.report = replace(self.report, snapshots=tuple(await self.listed()))
        if self._refused:
            raise SnapshotError("; ".join(self._refused.values()))

    async def _renew(self, ours: Sequence[ListedSnapshot], state: LogState) -> bool:
        """Take a snapshot if one is due, and verify the newest one. Returns whether anything was done."""
        reason = due(self._settings.schedule, await self._since(ours[0].manifest if ours else None, state))
        if reason is not None:
            logger.info("taking a snapshot: %s", reason)
            await self.take()
            ours = await self._of_this_log(await self.listed())
        is_new = bool(ours) and ours[0].verified_at_ms is None and ours[0].manifest.name not in self._refused
        if is_new:
            await self._verify(ours[0].manifest.name)
        return reason is not None or is_new

    async def _of_this_log(self, found: Sequence[ListedSnapshot]) -> list[ListedSnapshot]:
        """A verified one may be of a past that Kafka has lost since: it is refused then."""
        end, ours = self._machine.state.offset, []
        for it in found:
            if it.manifest.topic_id != self._log.identity or it.manifest.offset > end:
                continue
            if it.verified_at_ms is not None and not await is_in_log(self._log, it.manifest):
                name = it.manifest.name
                self._refused[name] = f"snapshot {name} contains other records than the log: Kafka has lost them"
                continue
            ours.append(it)
        return ours

    async def _since(self, newest: Manifest | None, state: LogState) -> Since:
        """`newest` None: since the start of the log."""
        extent = await self._log.extent()
        records = state.offset - newest.offset if newest else state.offset - extent.start + 1
        in_log = state.offset - extent.start + 1
        size = (extent.size_bytes or 0) * records // in_log if in_log > 0 else 0
        taken_at_ms = newest.taken_at_ms if newest else self._started_ms
        digest = f"{self._machine.meta.digest:032x}"
        has_changes = newest is None or newest.digest != digest
        return Since(records, size, abs(_now_ms() - taken_at_ms) / 1000, has_changes)  # clocks differ

    async def _verify(self, name: str) -> None:
        """A snapshot that is refused is not looked at again by this process."""
        last = await self._jobs.verify(name)
        if last.passed:
            logger.info("snapshot %s is verified", name)
        else:
            logger.error("snapshot %s is not what it should be: %s: %s", name, last.what, last.detail)
            self._refused[name] = f"snapshot {name} is not verified: {last.detail}"

    async def _prune(self, ours: Sequence[ListedSnapshot]) -> list[ListedSnapshot]:
        """Returns those that are kept."""
        candidates = [Kept(it.manifest.name, it.manifest.taken_at_ms, it.verified_at_ms is not None) for it in ours]
        names = obsolete(candidates, self._settings.keep, self._settings.keep_s, _now_ms())
        for name in names:
            await in_daemon_thread(partial(self._repository.delete, name))
            self._refused.pop(name, None)
            logger.info("deleted snapshot %s", name)
        return [it for it in ours if it.manifest.name not in names]

    async def _delete_unfinished(self) -> None:
        for name in await in_daemon_thread(lambda: self._repository.delete_unfinished(UNFINISHED_UPLOAD_S)):
            logger.info("deleted snapshot %s, whose upload was not completed", name)

    async def _trim_below(self, kept: Sequence[ListedSnapshot]) -> None:
        if not any(it.verified_at_ms is not None for it in kept):
            return
        snapshots = [Need(f"snapshot {it.manifest.name}", Offset(it.manifest.offset)) for it in kept]
        extent = await self._log.extent()
        first = first_need([*snapshots, *self._kept_bytes(extent), *await in_daemon_thread(self._needs)])
        start = extent.start
        if first.offset > start:
            start = await in_daemon_thread(lambda: self._trim(first.offset))
            logger.info("deleted the log below offset %d: %s needs it from there on", start, first.by)
        self.report = replace(self.report, needed_from=first.offset, needed_by=first.by)

    def _kept_bytes(self, extent: LogExtent) -> Iterator[Need]:
        """Counted in entries of the mean size. If the size of the log is not known, all are kept."""
        kept = self._settings.keep_log_bytes
        if kept:
            end, size = self._machine.state.offset + 1, extent.size_bytes
            entries = (end - extent.start) * kept // size if size else end
            yield Need(f"the setting keep_log_mb ({kept >> 20})", Offset(max(0, end - entries)))

    def _listed(self) -> list[ListedSnapshot]:
        found = listed(self._repository, self._verified)
        self._verified = [it for it in found if it.verified_at_ms is not None]
        return found


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
