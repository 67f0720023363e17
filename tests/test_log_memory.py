"""The log in memory keeps the contract, and has holes and a start as Kafka's may."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest

from replicator.errors import LogTrimmed
from replicator.log.memory import MemoryAcks, MemoryAckTopic, MemoryLog
from replicator.position import Offset
from tests.log_contract import AcksContract, LogContract, read


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


async def test_holes_are_passed_over(log: MemoryLog) -> None:
    await log.append([b"a"])
    log.skip_offsets(5)
    await log.append([b"b"])
    assert await read(log.reader(Offset(1)), 1) == [(6, b"b")]


async def test_what_was_trimmed_is_told(log: MemoryLog) -> None:
    await log.append([b"a", b"b"])
    log.trim(Offset(1))
    assert await log.start() == 1
    with pytest.raises(LogTrimmed, match="starts at 1"):
        await log.reader(Offset(0)).next()
