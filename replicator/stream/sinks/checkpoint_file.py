"""The file with the checkpoint of a sink whose target cannot store it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from replicator.errors import ConfigError
from replicator.store.durable import replace_file
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
        except (ValueError, TypeError, KeyError, ConfigError) as error:
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


def failed(path: Path | str, error: OSError) -> SinkFailed:
    return SinkFailed(
        f"{path} cannot be written ({error.strerror or error}): nothing is lost, start the sink again once it can"
    )
