"""The older part of a node's backlog, on disk: the last records that were dropped from memory.

It is no copy of the log that anything depends on. Its files have no names, so they end with the process, and nothing is
read from them that another process wrote. The batches are written in chunks, and the oldest file is dropped as a whole.
"""

from __future__ import annotations

import errno
import marshal
import os
import tempfile
from bisect import bisect_left
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, NamedTuple

from replicator.node.committed_batch import CommittedBatch, RecordEnd
from replicator.position import Offset, Seq

CHUNK_BYTES = 256 << 10
"""What is written, and read, at once."""
FILES = 8
"""So an eighth of the tail is dropped at once."""


class _Chunk(NamedTuple):
    last_seq: Seq
    position: int  # in the file
    length: int


@dataclass(slots=True)
class _File:
    file: IO[bytes]
    chunks: list[_Chunk] = field(default_factory=list)

    @property
    def size_bytes(self) -> int:
        return self.chunks[-1].position + self.chunks[-1].length if self.chunks else 0


class DiskTail:
    """Methods raise `OSError` if the disk cannot be written or read."""

    def __init__(self, dir: Path, max_bytes: int) -> None:
        """`dir`: of its files."""
        self._dir = dir
        self._file_bytes = max_bytes // FILES
        self._files: deque[_File] = deque()
        self._unwritten: list[CommittedBatch] = []
        self._unwritten_bytes = 0
        self._start: RecordEnd | None = None  # before the first record; None: there are no records

    def append(self, batch: CommittedBatch, before: RecordEnd) -> None:
        """`before`: the end of the record before it, which is the last one here, if there are any."""
        if self._start is None:
            self._start = before
        self._unwritten.append(batch)
        self._unwritten_bytes += batch.size_bytes
        if self._unwritten_bytes >= CHUNK_BYTES:
            self._write()

    def after(self, end: RecordEnd) -> list[CommittedBatch] | None:
        """The records after that one, about `CHUNK_BYTES`; empty if it is the last one. None if it is not here."""
        if self._start is None:
            return None
        if end == self._start:
            return self._chunk_with(Seq(end.seq + 1))
        chunk = self._chunk_with(end.seq)
        if not any(end in batch.ends for batch in chunk):
            return None
        rest = [part for batch in chunk if (part := batch.after(end.seq)) is not None]
        return rest or self._chunk_with(Seq(end.seq + 1))

    def clear(self) -> None:
        for it in self._files:
            it.file.close()
        self._files.clear()
        self._unwritten.clear()
        self._unwritten_bytes = 0
        self._start = None

    def _write(self) -> None:
        batches, self._unwritten, self._unwritten_bytes = self._unwritten, [], 0
        if not self._files or self._files[-1].size_bytes >= self._file_bytes:
            file = tempfile.TemporaryFile(dir=self._dir, buffering=0)  # noqa: SIM115 (it is closed when it is dropped)
            self._files.append(_File(file))
        last = self._files[-1]
        # marshal is the fastest for bytes, and no other process reads the file
        data = marshal.dumps([(it.base, list(it.payloads), [tuple(end) for end in it.ends]) for it in batches])
        if last.file.write(data) != len(data):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        last.chunks.append(_Chunk(batches[-1].ends[-1].seq, last.size_bytes, len(data)))
        if len(self._files) > FILES:
            dropped = self._files.popleft()
            self._start = self._read(dropped, dropped.chunks[-1])[-1].ends[-1]
            dropped.file.close()

    def _chunk_with(self, seq: Seq) -> list[CommittedBatch]:
        """The first chunk that ends with that record or a later one; empty if there is none."""
        for file in self._files:
            place = bisect_left(file.chunks, seq, key=lambda chunk: chunk.last_seq)
            if place < len(file.chunks):
                return self._read(file, file.chunks[place])
        return list(self._unwritten) if self._unwritten and self._unwritten[-1].ends[-1].seq >= seq else []

    def _read(self, file: _File, chunk: _Chunk) -> list[CommittedBatch]:
        data = os.pread(file.file.fileno(), chunk.length, chunk.position)
        if len(data) != chunk.length:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return [
            CommittedBatch(Offset(base), payloads, [RecordEnd(Seq(seq), chain) for seq, chain in ends])
            for base, payloads, ends in marshal.loads(data)
        ]
