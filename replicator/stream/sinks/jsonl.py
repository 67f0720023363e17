"""A file with one envelope a line, written exactly once.

`PATH.checkpoint` has the position, and the length that the file had then: what is behind it was not finished, and is
cut off when the sink opens it again.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
from collections.abc import Sequence
from pathlib import Path

from replicator.errors import ConfigError
from replicator.stream.change import Change
from replicator.stream.json_envelope import JsonFormat
from replicator.stream.position import StreamPosition
from replicator.stream.sinks.checkpoint_file import CheckpointFile, StoredCheckpoint, failed
from replicator.stream.sinks.port import SinkFailed


class JsonlSink:
    def __init__(self, path: Path) -> None:
        self._path = path
        self._checkpoint = CheckpointFile(path.with_name(path.name + ".checkpoint"))
        self._format = JsonFormat()
        self._file: int | None = None
        self._length = 0

    def open(self) -> StreamPosition | None:
        self.close()
        try:
            self._file = self._locked()
            return self._resume(self._file)
        except OSError as error:
            raise ConfigError(f"{self._path} cannot be written ({error.strerror}): choose another path") from error

    def write(self, changes: Sequence[Change], position: StreamPosition) -> None:
        assert self._file is not None
        data = memoryview(b"".join(self._format.encode(change) + b"\n" for change in changes))
        try:
            self._append(self._file, data)
        except OSError as error:
            with contextlib.suppress(OSError):
                os.ftruncate(self._file, self._length)
            raise failed(self._path, error) from error
        self._checkpoint.save(StoredCheckpoint(position, self._length + len(data)))
        self._length += len(data)

    def tick(self) -> None:
        pass

    def delete_checkpoint(self) -> None:
        self._checkpoint.delete()

    def close(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def _locked(self) -> int:
        """Raises `OSError`, `ConfigError`."""
        file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_NONBLOCK, 0o644)
        try:
            if not stat.S_ISREG(os.fstat(file).st_mode):
                raise ConfigError(f"{self._path} is not a file: choose another path")
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(file)
            raise ConfigError(f"another process writes to {self._path}: choose another path") from None
        except BaseException:
            os.close(file)
            raise
        return file

    def _resume(self, file: int) -> StreamPosition | None:
        """Raises `OSError`, `ConfigError`, `SinkFailed`."""
        found, size = self._checkpoint.load(), os.fstat(file).st_size
        if found is None:
            if size > 0:
                raise ConfigError(f"{self._path} has lines, but no checkpoint: move it, or choose another path")
            self._checkpoint.save(StoredCheckpoint(None, 0))  # so that lines without a checkpoint are never ours
            return None
        if found.length is None:
            raise SinkFailed(f"{self._checkpoint.path} has no length of {self._path}: restore it, or delete both")
        self._length = found.length
        if size < self._length:
            raise SinkFailed(
                f"{self._path} has {size} bytes, and had {self._length} at the checkpoint: restore it, or delete it "
                "and reset the sink"
            )
        os.ftruncate(file, self._length)
        return found.position

    def _append(self, file: int, data: memoryview) -> None:
        """Raises `OSError`."""
        at = self._length
        while data:
            written = os.pwrite(file, data, at)
            at, data = at + written, data[written:]
        os.fdatasync(file)
