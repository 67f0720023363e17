"""The contract of every adapter of `log.port`.

A test module subclasses these with the fixtures `log`, `open_acks`, and `open_applied` with `committed`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress

import pytest

from replicator.log.port import Acks, AppendRefused, AppliedOffsets, Entry, Log, Reader
from replicator.position import NodeId, Offset


async def read(reader: Reader, count: int) -> list[Entry]:
    entries: list[Entry] = []
    async with asyncio.timeout(20):
        while len(entries) < count:
            entries.extend(await reader.next())
    return entries


class LogContract:
    async def test_a_batch_gets_consecutive_offsets(self, log: Log) -> None:
        base = await log.append([b"a", b"b", b"c"])
        assert await log.append([b"d"]) == base + 3
        assert await log.end() == base + 4

    async def test_the_size_grows_with_the_log(self, log: Log) -> None:
        before = await log.extent()
        await log.append([bytes(1000)])
        after = await log.extent()
        assert after.start == before.start == await log.start()
        assert before.size_bytes is not None and after.size_bytes is not None
        assert after.size_bytes >= before.size_bytes + 1000

    async def test_entries_come_in_order_with_their_offsets(self, log: Log) -> None:
        base = await log.append([b"a", b"", bytes(100_000)])
        await log.append([b"d"])
        reader = log.reader(base)
        entries = await read(reader, 4)
        assert entries == [(base, b"a"), (base + 1, b""), (base + 2, bytes(100_000)), (base + 3, b"d")]
        await reader.close()

    async def test_a_reader_may_start_within_a_batch(self, log: Log) -> None:
        base = await log.append([b"a", b"b", b"c"])
        reader = log.reader(Offset(base + 1))
        assert await read(reader, 2) == [(base + 1, b"b"), (base + 2, b"c")]
        await reader.close()

    async def test_reading_on_is_no_reconnection(self, log: Log) -> None:
        base = await log.append([b"a"])
        reader = log.reader(base)
        await read(reader, 1)
        leader_changes = reader.leader_changes
        await log.append([b"b"])
        await read(reader, 1)
        reader.seek(base)
        await read(reader, 2)
        assert reader.leader_changes == leader_changes
        await reader.close()

    async def test_next_waits_for_the_next_append(self, log: Log) -> None:
        reader = log.reader(await log.end())
        waiting = asyncio.create_task(read(reader, 1))
        await asyncio.sleep(0)
        base = await log.append([b"late"])
        assert await waiting == [(base, b"late")]
        await reader.close()

    async def test_a_cancelled_next_loses_nothing(self, log: Log) -> None:
        base = await log.append([b"0"])
        reader = log.reader(base)
        await read(reader, 1)
        seen: list[Entry] = []
        for number in range(1, 30):
            waiting = asyncio.create_task(reader.next())
            await asyncio.sleep(0)
            appended = await log.append([b"%d" % number])
            waiting.cancel()
            with suppress(asyncio.CancelledError):
                seen.extend(await waiting)
            assert appended == base + number
        if len(seen) < 29:
            seen.extend(await read(reader, 29 - len(seen)))
        assert seen == [(base + number, b"%d" % number) for number in range(1, 30)]
        await reader.close()

    async def test_seek_goes_back_and_forth(self, log: Log) -> None:
        base = await log.append([b"a", b"b", b"c"])
        reader = log.reader(base)
        await read(reader, 3)
        reader.seek(base)
        assert (await read(reader, 3))[0] == (base, b"a")
        reader.seek(Offset(base + 2))
        assert (await read(reader, 1))[0] == (base + 2, b"c")
        await reader.close()

    async def test_seeking_is_no_reconnection(self, log: Log) -> None:
        base = await log.append([b"a", b"b"])
        reader = log.reader(base)
        for _ in range(3):
            await read(reader, 2)
            assert reader.leader_changes == 0
            reader.seek(base)
        await reader.close()

    async def test_readers_do_not_disturb_each_other(self, log: Log) -> None:
        base = await log.append([b"%d" % number for number in range(100)])
        readers = [log.reader(base) for _ in range(3)]
        for entries in await asyncio.gather(*(read(reader, 100) for reader in readers)):
            assert [entry.offset for entry in entries] == list(range(base, base + 100))
        for reader in readers:
            await reader.close()

    async def test_end_includes_every_acknowledged_append(self, log: Log) -> None:
        async def append_and_ask() -> None:
            base = await log.append([b"x"])
            assert await log.end() > base

        await asyncio.gather(*(append_and_ask() for _ in range(50)))

    async def test_a_batch_that_is_too_large_is_refused_and_appends_nothing(self, log: Log) -> None:
        end = await log.end()
        with pytest.raises(AppendRefused):
            await log.append([bytes(10 << 20), bytes(10 << 20)])
        assert await log.append([b"small"]) == end

    async def test_start_is_the_first_offset(self, log: Log) -> None:
        await log.append([b"a"])
        assert await log.start() == 0


class AcksContract:
    async def test_every_channel_receives_messages_sent_after_opening(self, open_acks: Callable[[str], Acks]) -> None:
        first, second = await open_acks("n1"), await open_acks("n2")  # type: ignore[misc]
        await first.send(b"one")
        await second.send(b"two")
        for channel in (first, second):
            received: list[bytes] = []
            async with asyncio.timeout(20):
                while len(received) < 2:
                    received.extend(await channel.receive())
            assert received == [b"one", b"two"]

    async def test_skip_discards_earlier_messages(self, open_acks: Callable[[str], Acks]) -> None:
        channel = await open_acks("n1")  # type: ignore[misc]
        await channel.send(b"old")
        await channel.skip()
        await channel.send(b"new")
        async with asyncio.timeout(20):
            assert list(await channel.receive()) == [b"new"]


class AppliedOffsetsContract:
    """`committed` returns what a node has committed; None: nothing."""

    async def test_the_last_commit_of_each_node_counts(
        self,
        open_applied: Callable[[NodeId], AppliedOffsets],
        committed: Callable[[NodeId], Awaitable[Offset | None]],
    ) -> None:
        first, second, third = (NodeId(f"n{number}") for number in (1, 2, 3))
        applied = {node: open_applied(node) for node in (first, second)}
        await applied[first].commit(Offset(7))
        await applied[second].commit(Offset(5))
        await applied[first].commit(Offset(9))
        applied[second].close()
        await applied[second].commit(Offset(3))  # a node whose store was lost applies the log again
        for offsets in applied.values():
            offsets.close()
        assert [await committed(node) for node in (first, second, third)] == [9, 3, None]
