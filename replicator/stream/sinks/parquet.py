"""Files in the Parquet format, written exactly once.

A file is written under a temporary name, and renamed when it is complete. It has the position in its metadata: that of
the newest file is the checkpoint, and what is younger is read from the change stream again.
"""

from __future__ import annotations

import fcntl
import os
import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from replicator.errors import ConfigError
from replicator.limits import SINK_GROUP_BYTES, SINK_GROUP_CHANGES
from replicator.store.durable import sync
from replicator.store.rows import Image
from replicator.stream.change import Change
from replicator.stream.envelope import blobs_of
from replicator.stream.json_envelope import columns_json
from replicator.stream.position import StreamPosition
from replicator.stream.sinks.checkpoint_file import failed
from replicator.stream.sinks.port import SinkFailed
from replicator.stream.sinks.settings import FileLimits
from replicator.stream.text import to_text

POSITION = b"replicator.position"
_FILE = re.compile(r"changes-([0-9]{10})\.parquet")
_UNFINISHED = ".unfinished"


def _image_fields(name: str) -> list[Any]:
    return [
        pa.field(f"{name}_type", pa.string()),
        pa.field(f"{name}_value", pa.string()),
        pa.field(f"{name}_value_base64", pa.bool_()),
        pa.field(f"{name}_expires", pa.timestamp("ms", tz="UTC")),
        pa.field(f"{name}_columns", pa.string()),
        pa.field(f"{name}_columns_base64", pa.list_(pa.string())),
    ]


SCHEMA = pa.schema(
    [
        pa.field("op", pa.string(), nullable=False),
        pa.field("table", pa.string(), nullable=False),
        pa.field("row", pa.string(), nullable=False),
        pa.field("row_base64", pa.bool_(), nullable=False),
        pa.field("field", pa.string()),
        pa.field("field_base64", pa.bool_(), nullable=False),
        *_image_fields("before"),
        *_image_fields("after"),
        pa.field("cluster", pa.string(), nullable=False),
        pa.field("timeline", pa.string(), nullable=False),
        pa.field("epoch", pa.int64(), nullable=False),
        pa.field("offset", pa.int64(), nullable=False),
        pa.field("seq", pa.int64(), nullable=False),
        pa.field("index", pa.int32(), nullable=False),
        pa.field("ts", pa.timestamp("us", tz="UTC"), nullable=False),
        pa.field("transaction_id", pa.string()),
        pa.field("total_order", pa.int32()),
        pa.field("event_count", pa.int32()),
    ]
)


class ParquetSink:
    def __init__(
        self, folder: Path, limits: FileLimits | None = None, now_s: Callable[[], float] = time.monotonic
    ) -> None:
        self._folder = folder
        self._limits = limits or FileLimits()
        self._now_s = now_s
        self._lock: int | None = None
        self._next = 0  # number of the next file
        self._position: StreamPosition | None = None
        self._changes: list[Change] = []  # that are in no row group yet
        self._pending_bytes = 0
        self._out: Any = None
        self._writer: Any = None
        self._began_s: float | None = None  # None: nothing was written since the last file

    def open(self) -> StreamPosition | None:
        self.close()
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._lock = self._locked()
            for unfinished in self._folder.glob(f"*{_UNFINISHED}"):
                unfinished.unlink()
            numbers = [int(found[1]) for it in self._folder.iterdir() if (found := _FILE.fullmatch(it.name))]
        except OSError as error:
            raise ConfigError(f"{self._folder} cannot be written ({error.strerror}): choose another folder") from error
        self._next = max(numbers, default=-1) + 1
        self._position = self._checkpoint(self._path(self._next - 1)) if numbers else None
        return self._position

    def write(self, changes: Sequence[Change], position: StreamPosition) -> None:
        if changes and self._began_s is None:
            self._began_s = self._now_s()
        self._changes += changes
        self._pending_bytes += sum(_size(change) for change in changes)
        self._position = position
        with self._discarding():
            if len(self._changes) >= SINK_GROUP_CHANGES or self._pending_bytes >= SINK_GROUP_BYTES:
                self._write_group()
            written = 0 if self._out is None else self._out.tell()
            if written + self._pending_bytes >= self._limits.bytes:
                self._finish()
        self.tick()

    def tick(self) -> None:
        if self._began_s is not None and self._now_s() - self._began_s >= self._limits.seconds:
            with self._discarding():
                self._finish()

    def delete_checkpoint(self) -> None:
        if self.open() is not None:
            self._position, self._began_s = None, 0.0
            with self._discarding():
                self._finish()  # an empty file without a position is the newest one now
        self.close()

    def close(self) -> None:
        if self._lock is None:
            return
        try:
            if self._began_s is not None:
                with self._discarding():
                    self._finish()
        finally:
            if self._lock is not None:
                os.close(self._lock)
            self._lock = None

    @contextmanager
    def _discarding(self) -> Iterator[None]:
        """After an error, what is in no file yet is discarded: it is read from the change stream again.

        Raises `SinkFailed` instead of `OSError`.
        """
        try:
            yield
        except OSError as error:
            self._discard()
            raise failed(self._folder, error) from error
        except BaseException:
            self._discard()
            raise

    def _discard(self) -> None:
        if self._out is not None:
            with suppress(OSError):
                self._out.close()
        self._out = self._writer = self._began_s = None
        self._changes, self._pending_bytes = [], 0

    def _path(self, number: int) -> Path:
        return self._folder / f"changes-{number:010}.parquet"

    def _locked(self) -> int:
        """Raises `OSError`, `ConfigError`."""
        lock = os.open(self._folder / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            raise ConfigError(f"another process writes to {self._folder}: choose another folder") from None
        return lock

    def _checkpoint(self, path: Path) -> StreamPosition | None:
        """Raises `SinkFailed`."""
        try:
            stored = (pq.read_metadata(path).metadata or {}).get(POSITION)
            if stored is None:
                raise SinkFailed(f"{path} was not written by a sink: choose another folder")
            return StreamPosition.decode(stored.decode()) if stored else None
        except (OSError, ConfigError, pa.ArrowException) as error:
            raise SinkFailed(f"{path} cannot be read ({error}): restore it, or delete it and reset the sink") from error

    def _write_group(self) -> None:
        """Raises `OSError`."""
        if self._writer is None:
            self._out = open(self._path(self._next).with_suffix(_UNFINISHED), "wb")  # noqa: SIM115
            self._writer = pq.ParquetWriter(self._out, SCHEMA, compression="zstd")
        if self._changes:
            self._writer.write_table(_table(self._changes))
        self._changes, self._pending_bytes = [], 0

    def _finish(self) -> None:
        """Complete the file, if there is anything to write. Raises `OSError`."""
        self._write_group()
        position = "" if self._position is None else self._position.encode()
        self._writer.add_key_value_metadata({POSITION.decode(): position})
        self._writer.close()
        self._out.flush()
        os.fsync(self._out.fileno())
        self._out.close()
        path = self._path(self._next)
        os.rename(path.with_suffix(_UNFINISHED), path)
        sync(self._folder)
        self._next += 1
        self._out = self._writer = self._began_s = None


def _size(change: Change) -> int:
    return 100 + sum(it.size_bytes for it in (change.before, change.after) if it is not None)


def _table(changes: Sequence[Change]) -> Any:
    rows = [_row(change) for change in changes]
    columns = [pa.array(values, field.type) for values, field in zip(zip(*rows, strict=True), SCHEMA, strict=True)]
    return pa.Table.from_arrays(columns, schema=SCHEMA)


def _row(change: Change) -> tuple[object, ...]:
    source, block = change.source, change.transaction
    field = (None, False) if change.field is None else to_text(change.field)
    return (
        change.op.value,
        change.table,
        *to_text(change.row),
        *field,
        *_image(change.before),
        *_image(change.after),
        source.cluster,
        source.timeline,
        source.epoch,
        source.offset,
        source.seq,
        source.place,
        source.timestamp_us,
        change.transaction_id,
        None if block is None else block.order,
        None if block is None else block.changes,
    )


def _image(image: Image | None) -> tuple[object, ...]:
    if image is None:
        return None, None, None, None, None, None
    value, is_base64 = (None, False) if image.value is None else to_text(image.value)
    columns, blobs = (None, None) if image.columns is None else (columns_json(image.columns), blobs_of(image.columns))
    return image.type, value, is_base64, image.expires_at_ms, columns, blobs
