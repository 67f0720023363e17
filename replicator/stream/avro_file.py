"""Changes in a file of Avro, which contains its schema: any reader of Avro can read it."""

from __future__ import annotations

from typing import IO

import fastavro
from fastavro.write import Writer

from replicator.records.codec import load_schema
from replicator.stream.change import Change
from replicator.stream.envelope import to_fields


class ChangeFile:
    """Writes an object container file to `out`, which is empty."""

    def __init__(self, out: IO[bytes]) -> None:
        """The header is written at once."""
        self._writer = Writer(out, fastavro.parse_schema(load_schema("change.v1.avsc")))

    def write(self, change: Change) -> None:
        """It may be kept until `flush`."""
        self._writer.write(to_fields(change))

    def flush(self) -> None:
        """Write what is kept as a block."""
        self._writer.flush()
