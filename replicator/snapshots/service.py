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

from replicator.daemon_thread import in_daemon_thread
from replicator.errors import ReplicatorError
from replicator.intervals import MAX_SNAPSHOT_RETRY_S, REPOSITORY_LOOK_S, SNAPSHOT_REVIEW_S, UNFINISHED_UPLOAD_S
from replicator.log.port import Log, LogExtent
from replicator.node.outage_log import OutageLog
from replicator.node.past import log_holds
from replicator.node.snapshots import ListedSnapshot, SnapshotProgress, SnapshotReport
from replicator.position import Offset
from replicator.protocol.trimming import Need, first_need
from replicator.snapshots.jobs import Jobs
from replicator.snapshots.listing import listed
from replicator.snapshots.repository import Repository, Unfinished
from replicator.snapshots.retention import Schedule, Since, due, obsolete
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
        self._refused: dict[str, str] = {}  # what is wrong with snapshots, by name
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
        await self.listed()
        return manifest

    async def listed(self) -> list[ListedSnapshot]:
        found = await in_daemon_thread(self._listed)
        self.report = replace(self.report, snapshots=tuple(found))
        return found

    async def run(self) -> None:
        """Look at the repository, and do what a snapshotter does, until cancelled. Less often while that fails."""
        loop = asyncio.get_running_loop()
        looked_s, pause_s = -REPOSITORY_LOOK_S, SNAPSHOT_REVIEW_S
        while True:
            if loop.time() - looked_s >= (pause_s if self._is_snapshotter() else REPOSITORY_LOOK_S):
                looked_s = loop.time()
                has_succeeded = await self.look()
                pause_s = SNAPSHOT_REVIEW_S if has_succeeded else min(2 * pause_s, MAX_SNAPSHOT_RETRY_S)
            await asyncio.sleep(SNAPSHOT_REVIEW_S)

    async def look(self) -> bool:
        """Once. Returns whether all that was to be done could be done."""
        try:
            found = await self.listed()
            if self._is_snapshotter() and self._machine.state.timeline:
                await self._review(found)
        except ReplicatorError as error:
            self._outage.failed(error)
            trouble = str(error)
        except Exception as error:
            logger.exception("snapshots")
            trouble = repr(error)
        else:
            self._outage.ended()
            self.report = replace(self.report, trouble="; ".join(self._refused.values()))
            return True
        self.report = replace(self.report, trouble=trouble)
        return False

    async def _review(self, found: Sequence[ListedSnapshot]) -> None:
        """Several snapshotters may do this at the same time: each step can be repeated."""
        names = {it.manifest.name for it in found}
        self._refused = {name: why for name, why in self._refused.items() if name in names}
        await self._prune()  # first, as the repository may be full
        await self._delete_unfinished()
        await self._take_if_due()
        await self._verify_newest()
        await self._prune()
        if self._settings.trims:
            await self._trim_log()

    @property
    def _ours(self) -> list[ListedSnapshot]:
        """Those of the log of this node, as of the last look: the highest offset first."""
        end = self._machine.state.offset
        return [
            it
            for it in self.report.snapshots or ()
            if it.manifest.topic_id == self._log.identity and it.manifest.offset <= end
        ]

    async def _in_log(self) -> list[ListedSnapshot]:
        """Those of `_ours`, as they are now, but the verified ones that must neither replace other snapshots nor a part
        of the log: the log does not hold them any more, as Kafka has lost its end since, or they have lost parts.
        """
        await self.listed()  # a verification may have failed since the last look
        found = []
        for it in self._ours:
            name, state = it.manifest.name, it.manifest.state
            if it.verified_at_ms is not None:
                try:
                    missing = await in_daemon_thread(partial(self._repository.missing_parts, name))
                except Unfinished:  # another snapshotter has deleted it meanwhile
                    continue
                if missing:
                    self._refuse(name, f"has lost parts, or they have another size than at first: {missing[0]}")
                    continue
                if state is not None and await log_holds(self._log, state) is False:
                    self._refuse(name, "contains other records than the log: Kafka has lost them")
                    continue
                self._refused.pop(name, None)  # a new leader of the partition may show the end of the log late
            found.append(it)
        return found

    def _refuse(self, name: str, why: str) -> None:
        if name not in self._refused:
            self._refused[name] = f"snapshot {name} {why}"
            logger.error("%s", self._refused[name])

    async def _prune(self) -> None:
        if not self._obsolete(self._ours):
            return
        for name in self._obsolete(await self._in_log()):
            await in_daemon_thread(partial(self._repository.delete, name))
            self._refused.pop(name, None)
            logger.info("deleted snapshot %s", name)
        await self.listed()

    def _obsolete(self, snapshots: Sequence[ListedSnapshot]) -> list[str]:
        return obsolete(snapshots, self._settings.keep, self._settings.keep_s, _now_ms())

    async def _delete_unfinished(self) -> None:
        complete = {it.manifest.name for it in self.report.snapshots or ()}
        for name in await in_daemon_thread(lambda: self._repository.delete_unfinished(UNFINISHED_UPLOAD_S, complete)):
            logger.info("deleted snapshot %s, whose upload was not completed", name)

    async def _take_if_due(self) -> None:
        newest = next(iter(self._ours), None)
        reason = due(self._settings.schedule, await self._since(newest.manifest if newest else None))
        if reason is not None:
            logger.info("taking a snapshot: %s", reason)
            await self.take()

    async def _since(self, newest: Manifest | None) -> Since:
        """`newest` None: since the start of the log."""
        extent, last = await self._log.extent(), self._machine.state.offset
        records = last - newest.offset if newest else last - extent.start + 1
        in_log = last - extent.start + 1
        size = (extent.size_bytes or 0) * records // in_log if in_log > 0 else 0
        taken_at_ms = newest.taken_at_ms if newest else self._started_ms
        has_changes = newest is None or newest.digest != f"{self._machine.meta.digest:032x}"
        return Since(records, size, abs(_now_ms() - taken_at_ms) / 1000, has_changes)  # clocks differ

    async def _verify_newest(self) -> None:
        """One that is refused is not verified again by this process."""
        newest = next(iter(self._ours), None)
        if newest is None or newest.verified_at_ms is not None or newest.manifest.name in self._refused:
            return
        name = newest.manifest.name
        last = await self._jobs.verify(name)
        if last.passed:
            logger.info("snapshot %s is verified", name)
            await self.listed()
        else:
            self._refuse(name, f"is not verified ({last.what}): {last.detail}")

    async def _trim_log(self) -> None:
        extent = await self._log.extent()
        others = [*self._kept_bytes(extent), *await in_daemon_thread(self._needs)]
        first = _first_need(self._ours, others)
        if first is not None and first.offset > extent.start:
            first = _first_need(await self._in_log(), others)
        if first is None:
            return
        if first.offset > extent.start:
            start = await in_daemon_thread(partial(self._trim, first.offset))
            logger.info("deleted the log below offset %d: %s needs it from there on", start, first.by)
        elif first.by != self.report.needed_by:
            logger.info("the log below offset %d is not deleted: %s needs it", first.offset, first.by)
        self.report = replace(self.report, needed_from=first.offset, needed_by=first.by)

    def _kept_bytes(self, extent: LogExtent) -> Iterator[Need]:
        """Counted in entries of the mean size. If the size of the log is not known, all are kept."""
        kept = self._settings.keep_log_bytes
        if kept:
            end, size = self._machine.state.offset + 1, extent.size_bytes
            entries = (end - extent.start) * kept // size if size else end
            yield Need(f"the setting keep_log_mb ({kept >> 20})", Offset(max(0, end - entries)))

    def _listed(self) -> list[ListedSnapshot]:
        found = listed(self._repository, self._verified, cluster=self._machine.meta.cluster)
        self._verified = [it for it in found if it.verified_at_ms is not None]
        return found


def _first_need(snapshots: Sequence[ListedSnapshot], others: Sequence[Need]) -> Need | None:
    """None: nothing may be deleted, as no snapshot is verified."""
    if not any(it.verified_at_ms is not None for it in snapshots):
        return None
    return first_need(
        [*(Need(f"snapshot {it.manifest.name}", Offset(it.manifest.offset)) for it in snapshots), *others]
    )


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
