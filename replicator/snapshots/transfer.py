"""A copy of a store as parts: each compressed, with a checksum, and transferred by itself, several at once.

A part is written whole, so a transfer that was interrupted goes on with the parts that are missing.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import zstandard

from replicator.errors import SnapshotError
from replicator.limits import PART_BYTES, TRANSFERS

LEVEL = 1  # of zstd

S = TypeVar("S")
T = TypeVar("T")

OnTransferred = Callable[[int], None]
"""Called with the size of each part once it is transferred."""


def ignore(size: int) -> None:
    """An `OnTransferred`, for callers that show no progress."""


def in_total(report: Callable[[int], None]) -> OnTransferred:
    """Calls `report` with the sum of all sizes so far."""
    done = 0

    def add(size: int) -> None:
        nonlocal done
        done += size
        report(done)

    return add


@dataclass(frozen=True, slots=True)
class Part:
    """Its place in the copy follows from the parts before it."""

    name: str
    bytes: int  # uncompressed
    sha256: str  # of these


def send_parts(
    file: Path, send: Callable[[str, bytes], None], is_sent: Callable[[str], bool], on_sent: OnTransferred
) -> tuple[Part, ...]:
    """Send a file as parts, but not those that were sent before. `send`: with the name and the compressed bytes.

    Raises what `send` does.
    """
    source = os.open(file, os.O_RDONLY)

    def send_part(index: int) -> Part:
        data = os.pread(source, PART_BYTES, index * PART_BYTES)
        digest = hashlib.sha256(data).hexdigest()
        part = Part(f"part-{index:05d}-{digest[:16]}.zst", len(data), digest)
        if not is_sent(part.name):
            send(part.name, zstandard.ZstdCompressor(level=LEVEL).compress(data))
        return part

    try:
        count = -(-file.stat().st_size // PART_BYTES)
        return tuple(_each(send_part, range(count), lambda part: on_sent(part.bytes)))
    finally:
        os.close(source)


def receive_parts(
    parts: Sequence[Part], receive: Callable[[str], bytes], file: Path, on_received: OnTransferred
) -> None:
    """Write a file from its parts. `receive`: the compressed bytes of a name. The file must not exist.

    Raises `SnapshotError` (a part is damaged), `OSError` of the file, and what `receive` does.
    """
    target = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    offsets = [0]
    for part in parts:
        offsets.append(offsets[-1] + part.bytes)

    def receive_part(index: int) -> Part:
        part = parts[index]
        data = _decompressed(part, receive(part.name))
        at = offsets[index]
        while data:
            written = os.pwrite(target, data, at)
            data, at = data[written:], at + written
        return part

    try:
        _each(receive_part, range(len(parts)), lambda part: on_received(part.bytes))
    finally:
        os.close(target)


def _decompressed(part: Part, stored: bytes) -> bytes:
    """Raises `SnapshotError`."""
    try:
        if zstandard.get_frame_parameters(stored).content_size == part.bytes:
            data = zstandard.ZstdDecompressor().decompress(stored, max_output_size=part.bytes)
            if hashlib.sha256(data).hexdigest() == part.sha256:
                return data
    except zstandard.ZstdError:
        pass
    raise SnapshotError(f"{part.name} does not match its checksum: use another snapshot, and take a new one")


def _each(work: Callable[[S], T], items: Iterable[S], on_done: Callable[[T], None]) -> list[T]:
    """The results of `work` in order, of several threads. After an error, no further items are begun."""
    with ThreadPoolExecutor(TRANSFERS) as pool:
        futures: list[Future[T]] = [pool.submit(work, item) for item in items]
        pending = set(futures)
        try:
            while pending:
                done, pending = wait(pending, return_when=FIRST_COMPLETED)
                for future in done:
                    on_done(future.result())
        finally:
            for future in pending:
                future.cancel()
        return [future.result() for future in futures]
