"""The change stream at a node: runs the process of its publisher, and changes the settings of the stream."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

from replicator.errors import BrokerUnavailable, ConfigError, Loading
from replicator.intervals import (
    MAX_PUBLISHER_RETRY_S,
    PUBLISHER_RETRY_S,
    PUBLISHER_STOP_S,
    REPORT_TIMEOUT_S,
    STREAM_LOOKUP_S,
)
from replicator.log.kafka.topic import changes_topic, stream_topic
from replicator.node.change_stream import NO_PUBLISHER, PublisherReport, PublisherState
from replicator.node.outage_log import OutageLog
from replicator.position import Offset
from replicator.protocol.log_state import LogState
from replicator.store import snapshot
from replicator.store.snapshot import Manifest
from replicator.stream import management
from replicator.stream.kafka_access import KafkaAccess
from replicator.stream.management import StartFrom, StreamOptions, StreamStart
from replicator.stream.run_publisher import PublisherSettings
from replicator.stream.settings import Backfill, Progress, StreamState
from replicator.stream.sql_rows import NO_TABLES, Tables
from replicator.stream.state_topic import read_state

logger = logging.getLogger(__name__)

PUBLISHER = (sys.executable, "-m", "replicator.stream.run_publisher")


async def _never() -> bool:
    return False


class NodeSource:
    """What a new stream may start from: the log and the snapshots of this node."""

    def __init__(
        self,
        state: Callable[[], LogState],
        start: Callable[[], Awaitable[Offset]],
        take_snapshot: Callable[[], Awaitable[Manifest]],
        continues_another: Callable[[], Awaitable[bool]] = _never,
        tables: Callable[[], Tables] = lambda: NO_TABLES,
    ) -> None:
        """`state`: of the log, as applied. `start`: of the log. `continues_another`: whether it is a restored one's.

        `tables`: of SQL, in the store at that state.
        """
        self.state = state
        self.start = start
        self.take_snapshot = take_snapshot
        self.continues_another = continues_another
        self.tables = tables


class ChangeStreamService:
    """Implements `node.change_stream.ChangeStreamControl`."""

    def __init__(
        self,
        settings: PublisherSettings,
        source: NodeSource,
        topic_id: Callable[[str], Awaitable[str | None]],
        command: Sequence[str] = PUBLISHER,
    ) -> None:
        """`topic_id` raises `BrokerUnavailable`. `command`: of the publisher's process."""
        self._report, self._reported_s = NO_PUBLISHER, 0.0  # of this node's publisher, on the clock of the loop
        self._settings = settings
        self._kafka = KafkaAccess(settings.bootstrap, settings.cluster, settings.node, settings.security)
        self._source = source
        self._topic_id = topic_id
        self._command = command
        self._changed = asyncio.Event()  # the stream was enabled by this node
        self._changing = asyncio.Lock()
        self._process: Process | None = None  # of the publisher
        self._retry_s = PUBLISHER_RETRY_S
        self._outage = OutageLog(logger, "publishing the change stream")

    @property
    def report(self) -> PublisherReport:
        """Of this node's publisher. One that has stopped reporting publishes nothing: Kafka or it does not respond."""
        silent_s = asyncio.get_running_loop().time() - self._reported_s
        if self._report.publishes and silent_s > REPORT_TIMEOUT_S:
            trouble = f"it has not reported for {silent_s:.0f} s: it is paused, or Kafka does not answer"
            return replace(self._report, state=PublisherState.FAILED, trouble=trouble)
        return self._report

    async def run(self) -> None:
        """Run a publisher while there is a change stream, until cancelled."""
        while True:
            try:
                exists = await self._topic_id(stream_topic(self._settings.cluster)) is not None
            except BrokerUnavailable as error:
                if self.report.state is not PublisherState.DISABLED:
                    self._note(PublisherReport(PublisherState.FAILED, trouble=str(error)))
                exists = False
            else:
                if not exists:
                    self._report = NO_PUBLISHER
            if exists:
                await self._run_publisher()
            await self._wait_for_change(self._retry_s if exists else STREAM_LOOKUP_S)

    async def describe(self) -> dict[str, Any]:
        async with self._changing:  # also one at a time: each needs a connection to Kafka
            return self._fields(await asyncio.to_thread(read_state, self._kafka))

    async def enable(self, options: Mapping[str, Any]) -> dict[str, Any]:
        parsed = StreamOptions.parse(options)
        async with self._changing:
            if await asyncio.to_thread(read_state, self._kafka) is not None:
                parsed.check_none_given()
                state = await asyncio.to_thread(management.set_enabled, self._kafka, True)
            else:
                start = await self._start(parsed.start_from or StartFrom.EARLIEST)
                state = await asyncio.to_thread(management.create, self._kafka, parsed, start)
                await self._check_start(state)
        self._changed.set()
        return self._fields(state)

    async def disable(self) -> dict[str, Any]:
        async with self._changing:
            state = await asyncio.to_thread(management.set_enabled, self._kafka, False)
        self._end_publisher()
        return self._fields(state)

    async def reset(self) -> None:
        async with self._changing:
            await asyncio.to_thread(management.reset, self._kafka)
        self._end_publisher()

    async def _start(self, start_from: StartFrom) -> StreamStart:
        if start_from is StartFrom.SNAPSHOT:
            taken = await self._source.take_snapshot()
            meta = await asyncio.to_thread(snapshot.meta_of, self._settings.snapshots / taken.name)
            backfill = Backfill(self._settings.node, taken.name)
            return StreamStart(Progress(meta.state, backfilling=True), backfill)
        state = self._source.state()
        if not state.timeline:
            raise Loading("the log is empty: there has been no leader yet. Try again")
        if start_from is StartFrom.LATEST:
            return StreamStart(Progress(state, tables=self._source.tables()))
        first = await self._source.start()
        if first > 0:
            raise ConfigError(
                f"the log begins at offset {first}, because it was trimmed: its earlier changes cannot be published. "
                "Start from a snapshot, or from the latest change"
            )
        if await self._source.continues_another():
            raise ConfigError(
                "this cluster was restored from a snapshot, so the changes before that are not in its log: start from "
                "a snapshot, or from the latest change"
            )
        return StreamStart(Progress(LogState()))

    async def _check_start(self, state: StreamState) -> None:
        """The log may have been trimmed before the stream existed; from now on that waits for it."""
        if await self._source.start() > state.progress.state.offset + 1:
            await asyncio.to_thread(management.reset, self._kafka)
            raise ConfigError("the log was trimmed meanwhile, beyond the start of the change stream: try again")

    def _fields(self, state: StreamState | None) -> dict[str, Any]:
        topic = changes_topic(self._settings.cluster)
        if state is None:
            return {"topic": topic, "settings": None, "progress": None}
        progress = state.progress
        return {
            "topic": topic,
            "settings": asdict(state.settings),
            "progress": {
                "offset": progress.state.offset,
                "seq": progress.state.seq,
                "changes": progress.changes,
                "backfilling": progress.backfilling,
            },
        }

    async def _wait_for_change(self, seconds: float) -> None:
        """So long, or until this node has enabled the stream."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._changed.wait()
        self._changed.clear()

    async def _run_publisher(self) -> None:
        """A failure affects nothing else: the node goes on without a publisher."""
        try:
            await self._run_process()
        except (OSError, ValueError, TypeError, KeyError) as error:
            self._note(PublisherReport(PublisherState.FAILED, trouble=f"its process cannot be used: {error!r}"))
        self._retry_s = min(2 * self._retry_s, MAX_PUBLISHER_RETRY_S)

    async def _run_process(self) -> None:
        process = self._process = await asyncio.create_subprocess_exec(
            *self._command, stdin=PIPE, stdout=PIPE, start_new_session=True
        )
        try:
            assert process.stdin is not None and process.stdout is not None
            process.stdin.write(self._settings.encode())
            async for line in process.stdout:
                self._note(PublisherReport.decode(line))
            status = await process.wait()
            if status and self._report.state is not PublisherState.FAILED:
                self._note(PublisherReport(PublisherState.FAILED, trouble=f"its process ended with status {status}"))
        finally:
            await _stop(process)

    def _end_publisher(self) -> None:
        """It was fenced, but does not know it before it publishes again: the next process finds the new settings."""
        if self._process is not None and self._process.returncode is None:
            self._process.terminate()

    def _note(self, report: PublisherReport) -> None:
        if report.state is PublisherState.FAILED:
            self._outage.failed(ConfigError(report.trouble))
        elif report.publishes:
            self._outage.ended()
            self._retry_s = PUBLISHER_RETRY_S
        if report.publishes and not self.report.publishes:
            logger.info("publishing the change stream from offset %d on", report.offset + 1)
        self._report, self._reported_s = report, asyncio.get_running_loop().time()


async def _stop(process: Process) -> None:
    """Let it leave the group of publishers; it has no more than a moment for that."""
    assert process.stdin is not None
    if process.returncode is None:
        process.terminate()
        try:
            async with asyncio.timeout(PUBLISHER_STOP_S):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()
    process.stdin.close()  # not before: the process would end at once, without leaving
