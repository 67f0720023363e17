"""Damages the log of a broker that does not run, as a crash of its machine does."""

from __future__ import annotations

import struct
from pathlib import Path

from replicator.log.kafka.topic import wal_topic

_BATCH = struct.Struct(">qi")  # offset of the first record, bytes that follow


def segment(data: Path, cluster: str) -> Path:
    """The only one of the log."""
    [file] = (data / f"{wal_topic(cluster)}-0").glob("*.log")
    return file


def lose_from(data: Path, cluster: str, offset: int) -> int:
    """Cut the log off at the first batch that begins at or after an offset. Returns where it ends then."""
    file = segment(data, cluster)
    content, at = file.read_bytes(), 0
    while at + _BATCH.size <= len(content):
        base, size = _BATCH.unpack_from(content, at)
        if base >= offset or size <= 0:
            break
        at += _BATCH.size + size
    with file.open("r+b") as log:
        log.truncate(at)
    for index in (*file.parent.glob("*.index"), *file.parent.glob("*.timeindex")):
        index.unlink()
    return int(base)
