"""The file with the checkpoint of a sink whose target cannot store it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

from replicator.errors import ConfigError
from replicator.store.durable import replace_file
from replicator.stream.position import StreamPosition
from replicator.stream.sinks.port import SinkFailed


class StoredCheckpoint(NamedTuple):
    position: StreamPosition | None  # None: before the first change
    length: int | None = None  # bytes of the target at the position, if the target is a file


class CheckpointFile:
    def __init__(self, path: Path) -> None:
        self.path = path

    def load(self) -> StoredCheckpoint | None:
        """None if there is none. Raises `SinkFailed`."""
        try:
            fields: dict[str, Any] = json.loads(self.path.read_text())
            position, length = fields["position"], fields.get("length")
            return StoredCheckpoint(
                None if position is None else StreamPosition.decode(position), None if length is None else int(length)
            )
        except FileNotFoundError:
            return None
        except OSError as error:
            raise failed(self.path, error) from error
        except (ValueError, TypeError, KeyError, RecursionError, ConfigError) as error:
            raise SinkFailed(f"{self.path} is not the checkpoint of a sink: restore it, or delete it") from error

    def save(self, checkpoint: StoredCheckpoint) -> None:
        """Raises `SinkFailed`."""
        position, length = checkpoint
        fields: dict[str, Any] = {"position": None if position is None else position.encode()}
        if length is not None:
            fields["length"] = length
        try:
            replace_file(self.path, json.dumps(fields).encode())
        except OSError as error:
            raise failed(self.path, error) from error

    def delete(self) -> None:
        """Raises `SinkFailed`."""
        try:
            self.path.unlink(missing_ok=True)
        except OSError as error:
            raise failed(self.path, error) from error


def failed(path: Path | str, error: OSError) -> SinkFailed:
    return SinkFailed(
        f"{path} cannot be written ({error.strerror or error}): nothing is lost, start the sink again once it can"
    )
