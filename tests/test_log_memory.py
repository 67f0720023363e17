"""The in-memory log meets the contract, and can have gaps and a start offset like Kafka's."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest

from replicator.errors import LogTrimmed
from replicator.log.memory import MemoryAcks, MemoryAckTopic, MemoryAppliedOffsets, MemoryLog
from replicator.position import NodeId, Offset
from tests.log_contract import AcksContract, AppliedOffsetsContract, LogContract, read


@pytest.fixture
async def log() -> MemoryLog:
    return MemoryLog()


class TestMemoryLog(LogContract):
    pass


class TestMemoryAcks(AcksContract):
    @pytest.fixture
    def open_acks(self) -> Callable[[str], Awaitable[MemoryAcks]]:
        topic = MemoryAckTopic()

        async def open_channel(node: str) -> MemoryAcks:
            return topic.open()

        return open_channel


class TestMemoryAppliedOffsets(AppliedOffsetsContract):
    @pytest.fixture
    def stored(self) -> dict[NodeId, Offset]:
        return {}

    @pytest.fixture
    def open_applied(self, stored: dict[NodeId, Offset]) -> Callable[[NodeId], MemoryAppliedOffsets]:
        return lambda node: MemoryAppliedOffsets(node, stored)

    @pytest.fixture
    def committed(self, stored: dict[NodeId, Offset]) -> Callable[[NodeId], Awaitable[Offset | None]]:
        async def read_committed(node: NodeId) -> Offset | None:
            return stored.get(node)

        return read_committed


async def test_gaps_are_skipped(log: MemoryLog) -> None:
    await log.append([b"a"])
    log.skip_offsets(5)
    await log.append([b"b"])
    assert await read(log.reader(Offset(1)), 1) == [(6, b"b")]


async def test_reading_a_trimmed_offset_is_an_error(log: MemoryLog) -> None:
    await log.append([b"a", b"b"])
    log.trim(Offset(1))
    assert await log.start() == 1
    with pytest.raises(LogTrimmed, match="starts at 1"):
        await log.reader(Offset(0)).next()
