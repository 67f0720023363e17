"""The latest records that a node keeps for readers of changes."""

from __future__ import annotations

import asyncio

import pytest

from replicator.log.port import Entry
from replicator.node.recent_records import RecentRecords
from replicator.position import Author, Epoch, NodeId, Offset, Seq
from replicator.records.types import Group, Header, Record
from tests.keyspace_fixture import writes

HEADER = Header(3, bytes(16), Epoch(2), Author(NodeId("n1"), 7), Seq(40), 1_700_000_000_123_456, bytes(8))


def record(*commands: str) -> Record:
    return Record(HEADER, Group(tuple(writes(*commands))), b"")


class Kept:
    """Records at chosen offsets, whose payloads have chosen sizes."""

    def __init__(self, **bounds: int) -> None:
        self.decoded: list[bytes] = []
        self.recent = RecentRecords(Offset(9), self._decode, **{"max_bytes": 1000, "max_records": 1000, **bounds})

    def add(self, *offsets: int, size: int = 1) -> None:
        self.recent.add([Entry(Offset(offset), bytes(size)) for offset in offsets])

    @property
    def offsets(self) -> list[int]:
        found: list[int] = []
        at = self.recent.since
        while (it := self.recent.after(at)) is not None:
            found.append(it.offset)
            at = it.offset
        return found

    def _decode(self, payload: bytes) -> Record:
        self.decoded.append(payload)
        return record("SET k v")


def test_records_are_found_by_their_offsets() -> None:
    kept = Kept()
    assert (kept.recent.since, kept.recent.end) == (9, 9)
    assert kept.recent.after(Offset(9)) is None and kept.recent.before(Offset(99)) is None
    kept.add(12, 15)
    kept.add()
    kept.add(20)
    assert (kept.recent.since, kept.recent.end) == (9, 20)
    after = [kept.recent.after(Offset(offset)) for offset in (9, 11, 12, 15, 19, 20)]
    assert [it and it.offset for it in after] == [12, 12, 15, 20, 20, None]
    before = [kept.recent.before(Offset(offset)) for offset in (12, 13, 20, 21)]
    assert [it and it.offset for it in before] == [None, 12, 15, 20]


@pytest.mark.parametrize("bounds", [{"max_bytes": 160}, {"max_records": 16}])
def test_the_oldest_records_are_dropped(bounds: dict[str, int]) -> None:
    kept = Kept(**bounds)
    kept.add(*range(10, 26), size=10)
    assert (kept.recent.since, len(kept.offsets)) == (9, 16)
    kept.add(26, size=10)
    assert (kept.recent.since, kept.offsets) == (11, [*range(12, 27)])
    kept.add(27, size=10)
    assert (kept.recent.since, kept.offsets) == (11, [*range(12, 28)])


def test_the_newest_record_stays_however_large_it_is() -> None:
    kept = Kept(max_bytes=100)
    kept.add(10, 11)
    kept.add(12, size=500)
    assert (kept.recent.since, kept.offsets) == (11, [12])
    kept.add(13)
    assert (kept.recent.since, kept.offsets) == (12, [13])


def test_a_record_is_decoded_once_for_all_who_read_it_now() -> None:
    kept = Kept()
    kept.add(10, 11)
    for _ in range(3):
        assert [it and it.offset for it in (kept.recent.after(Offset(9)), kept.recent.after(Offset(10)))] == [10, 11]
    assert len(kept.decoded) == 2


def test_decoded_records_are_kept_within_a_bound() -> None:
    kept = Kept(max_decoded_bytes=3 * 1001)  # of three records, each with one byte and one change
    kept.add(10, 11, 12, 13)
    read = [10, 11, 12, 10, 13, 10, 12, 11]  # 13 takes the place of 11, which was not read for the longest time
    for offset in read:
        kept.recent.before(Offset(offset + 1))
    assert len(kept.decoded) == 5


def test_the_last_record_is_kept_decoded_however_large_it_is() -> None:
    kept = Kept(max_decoded_bytes=100)
    kept.add(10, 11)
    for offset in (10, 10, 11, 11, 10):
        kept.recent.before(Offset(offset + 1))
    assert len(kept.decoded) == 3


async def test_readers_wait_for_the_next_record() -> None:
    kept = Kept()
    waiting = [asyncio.ensure_future(kept.recent.wait(Offset(offset))) for offset in (10, 12)]
    await asyncio.sleep(0)
    kept.add(11)
    await waiting[0]
    assert not waiting[1].done()
    kept.add(15)
    await waiting[1]
