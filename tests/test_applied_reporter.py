"""A node reports to Kafka how far it has applied the log, and nothing that goes wrong with that affects it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator

import pytest

from replicator.errors import BrokerUnavailable
from replicator.intervals import OFFSET_COMMIT_MS, REFUSED_OFFSET_COMMIT_MS
from replicator.log.memory import MemoryAppliedOffsets
from replicator.log.port import OffsetCommitRefused
from replicator.node.applied_reporter import AppliedReporter
from replicator.node.clock import SystemClock
from replicator.position import NodeId, Offset
from tests.memory_cluster import until

N1 = NodeId("n1")


class StepClock(SystemClock):
    """A sleep lasts until the next step of the test."""

    def __init__(self) -> None:
        self.sleeps_ms: list[float] = []
        self._steps = asyncio.Semaphore(0)

    async def sleep(self, duration_ms: float) -> None:
        self.sleeps_ms.append(duration_ms)
        await self._steps.acquire()

    def step(self) -> None:
        self._steps.release()


class FaultyOffsets(MemoryAppliedOffsets):
    def __init__(self) -> None:
        self.stored: dict[NodeId, Offset] = {}
        self.commits = 0
        self.error: Exception | None = None
        super().__init__(N1, self.stored)

    async def commit(self, next_offset: Offset) -> None:
        self.commits += 1
        if self.error is not None:
            raise self.error
        await super().commit(next_offset)


class Reporting:
    def __init__(self) -> None:
        self.clock, self.offsets = StepClock(), FaultyOffsets()
        self.next_offset: Offset | None = Offset(4)
        self._reporter = AppliedReporter(lambda: self.next_offset, self.offsets, self.clock)
        self._task: asyncio.Task[None] | None = None

    async def interval(self) -> float:
        """Until the next pause, in ms, has begun."""
        sleeps = len(self.clock.sleeps_ms)
        if self._task is None:
            self._task = asyncio.create_task(self._reporter.run())
        else:
            self.clock.step()
        await until(lambda: len(self.clock.sleeps_ms) > sleeps)
        return self.clock.sleeps_ms[-1]

    async def stop(self) -> None:
        assert self._task is not None and not self._task.done()
        self._task.cancel()
        await asyncio.wait([self._task])


@pytest.fixture
async def reporting() -> AsyncIterator[Reporting]:
    reporting = Reporting()
    yield reporting
    await reporting.stop()


async def test_an_offset_is_committed_once_an_interval_if_it_has_changed(reporting: Reporting) -> None:
    assert await reporting.interval() == OFFSET_COMMIT_MS
    assert (reporting.offsets.stored, reporting.offsets.commits) == ({N1: 4}, 1)
    await reporting.interval()
    assert reporting.offsets.commits == 1
    reporting.next_offset = Offset(9)
    await reporting.interval()
    assert (reporting.offsets.stored, reporting.offsets.commits) == ({N1: 9}, 2)


async def test_a_process_that_does_not_count_as_its_node_commits_nothing(reporting: Reporting) -> None:
    reporting.next_offset = None
    await reporting.interval()
    assert reporting.offsets.commits == 0
    reporting.next_offset = Offset(4)
    await reporting.interval()
    assert reporting.offsets.stored == {N1: 4}


async def test_an_outage_is_logged_once_and_ends_by_itself(
    reporting: Reporting, caplog: pytest.LogCaptureFixture
) -> None:
    reporting.offsets.error = BrokerUnavailable("no answer")
    with caplog.at_level(logging.INFO):
        for _ in range(3):
            assert await reporting.interval() == OFFSET_COMMIT_MS
        reporting.offsets.error = None
        await reporting.interval()
    assert reporting.offsets.stored == {N1: 4}
    assert caplog.messages == [
        "committing the applied offset to Kafka fails: no answer",
        "committing the applied offset to Kafka failed for 0 s, and succeeds again",
    ]


async def test_a_refusal_is_one_warning(reporting: Reporting, caplog: pytest.LogCaptureFixture) -> None:
    reporting.offsets.error = OffsetCommitRefused("allow READ on the group")
    for _ in range(3):
        assert await reporting.interval() == REFUSED_OFFSET_COMMIT_MS
    reporting.offsets.error = None
    assert await reporting.interval() == OFFSET_COMMIT_MS
    assert reporting.offsets.stored == {N1: 4}
    assert [(it.levelname, it.message) for it in caplog.records] == [("WARNING", "allow READ on the group")]
