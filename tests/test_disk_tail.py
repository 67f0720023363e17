"""What a node keeps on disk of the records that were dropped from memory."""

from __future__ import annotations

import errno
import io
from itertools import pairwise
from pathlib import Path

import pytest
from typing_extensions import Buffer

from replicator.node import disk_tail
from replicator.node.committed_batch import CommittedBatch, RecordEnd
from replicator.node.disk_tail import FILES, DiskTail
from replicator.position import Offset, Seq

RECORDS = 3  # in a batch


def end(seq: int) -> RecordEnd:
    return RecordEnd(Seq(seq), b"chain %d" % seq)


def batch(number: int) -> CommittedBatch:
    """Of the records 1 + 3 * number, …"""
    seqs = range(1 + RECORDS * number, 1 + RECORDS * (number + 1))
    return CommittedBatch(Offset(100 + seqs[0]), [b"record %d" % seq for seq in seqs], [end(seq) for seq in seqs])


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two batches."""
    monkeypatch.setattr(disk_tail, "CHUNK_BYTES", 2 * batch(0).size_bytes)


def filled(dir: Path, batches: int, max_bytes: int = 1 << 20) -> DiskTail:
    tail = DiskTail(dir, max_bytes)
    for number in range(batches):
        tail.append(batch(number), end(RECORDS * number))
    return tail


def rest(tail: DiskTail, position: RecordEnd) -> list[bytes] | None:
    """All records after it, as a follower is fed them."""
    payloads: list[bytes] = []
    offsets: list[int] = []
    while batches := tail.after(position):
        for it in batches:
            payloads += it.payloads
            offsets += range(it.base, it.base + len(it.payloads))
        position = batches[-1].ends[-1]
    assert all(after == before + 1 for before, after in pairwise(offsets))
    return None if batches is None else payloads


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("batches", [1, 2, 5, 20])
def test_what_follows_any_position(tmp_path: Path, batches: int) -> None:
    tail, last = filled(tmp_path, batches), RECORDS * batches
    for seq in range(last + 1):
        assert rest(tail, end(seq)) == [b"record %d" % it for it in range(seq + 1, last + 1)]
    assert tail.after(end(last + 1)) is None
    assert tail.after(RecordEnd(Seq(2), b"another chain")) is None
    assert list(tmp_path.iterdir()) == []
    tail.clear()
    assert tail.after(end(0)) is None
    tail.append(batch(4), end(12))
    assert rest(tail, end(13)) == [b"record 14", b"record 15"]


@pytest.mark.usefixtures("small_chunks")
def test_the_oldest_file_is_dropped(tmp_path: Path) -> None:
    tail = filled(tmp_path, 2 * (FILES + 1), max_bytes=FILES)  # one chunk fills a file
    assert tail.after(end(2 * RECORDS - 1)) is None
    assert rest(tail, end(2 * RECORDS)) == [b"record %d" % it for it in range(7, RECORDS * 2 * (FILES + 1) + 1)]


def test_positions_within_a_record_of_several_transactions(tmp_path: Path) -> None:
    tail = DiskTail(tmp_path, 1 << 20)
    tail.append(CommittedBatch(Offset(1), [b"1 to 5", b"6"], [end(5), end(6)]), end(0))
    assert tail.after(end(3)) is None
    assert rest(tail, end(0)) == [b"1 to 5", b"6"]
    assert rest(tail, end(5)) == [b"6"]


class FullFile(io.BytesIO):
    def write(self, data: Buffer) -> int:
        return super().write(bytes(data)[:-1])


@pytest.mark.usefixtures("small_chunks")
def test_a_full_disk_is_reported(tmp_path: Path) -> None:
    tail = filled(tmp_path, 2)
    tail._files[0].file = FullFile()
    tail.append(batch(2), end(6))
    with pytest.raises(OSError) as raised:
        tail.append(batch(3), end(9))
    assert raised.value.errno == errno.ENOSPC


@pytest.mark.usefixtures("small_chunks")
def test_a_file_that_is_too_short_is_reported(tmp_path: Path) -> None:
    tail = filled(tmp_path, 2)
    tail._files[0].file.truncate(10)
    with pytest.raises(OSError) as raised:
        tail.after(end(0))
    assert raised.value.errno == errno.EIO
