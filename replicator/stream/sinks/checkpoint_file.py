"""Small files that are replaced as a whole, and survive a crash of the machine."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from replicator.errors import ConfigError
from replicator.stream.position import StreamPosition
from replicator.stream.sinks.port import SinkFailed


class CheckpointFile:
    """A position, with what belongs to it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def load(self) -> dict[str, Any] | None:
        """None if there is none. `position` is a `StreamPosition` or None. Raises `SinkFailed`."""
        try:
            fields: dict[str, Any] = json.loads(self.path.read_text())
            position = fields["position"]
            return {**fields, "position": None if position is None else StreamPosition.decode(position)}
        except FileNotFoundError:
            return None
        except OSError as error:
            raise failed(self.path, error) from error
        except (ValueError, TypeError, KeyError, RecursionError, ConfigError) as error:
            raise SinkFailed(f"{self.path} is not the checkpoint of a sink: restore it, or delete it") from error

    def save(self, position: StreamPosition | None, **others: object) -> None:
        """Raises `SinkFailed`."""
        text = json.dumps({"position": None if position is None else position.encode(), **others})
        try:
            replace_file(self.path, text.encode())
        except OSError as error:
            raise failed(self.path, error) from error

    def delete(self) -> None:
        """Raises `SinkFailed`."""
        try:
            self.path.unlink(missing_ok=True)
        except OSError as error:
            raise failed(self.path, error) from error


def replace_file(path: Path, data: bytes) -> None:
    """Raises `OSError`."""
    new = path.with_name(path.name + ".new")
    with open(new, "wb") as out:
        out.write(data)
        out.flush()
        os.fsync(out.fileno())
    os.replace(new, path)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make renames in the folder durable. Raises `OSError`."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def failed(path: Path | str, error: OSError) -> SinkFailed:
    return SinkFailed(
        f"{path} cannot be written ({error.strerror or error}): nothing is lost, start the sink again once it can"
    )
