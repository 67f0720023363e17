"""From the settings of a sink to the sink."""

from __future__ import annotations

from pathlib import Path

from replicator.errors import ConfigError
from replicator.stream.sinks.http import HttpSink
from replicator.stream.sinks.jsonl import JsonlSink
from replicator.stream.sinks.port import Sink
from replicator.stream.sinks.settings import SinkSettings, TargetKind, TargetOptions


def build_sink(settings: SinkSettings, folder: Path, options: TargetOptions) -> Sink:
    """`folder`: for the checkpoint, if the target cannot store it. Raises `ConfigError`."""
    target = settings.target
    match target.kind:
        case TargetKind.JSONL:
            return JsonlSink(Path(target.location))
        case TargetKind.HTTP:
            letters = settings.dead_letters
            return HttpSink(
                target.location,
                folder / f"{settings.name}.checkpoint",
                Path(letters) if letters else None,
                options.authorization,
            )
        case TargetKind.POSTGRES:
            try:
                from replicator.stream.sinks.postgres import PostgresSink
            except ImportError as error:
                raise ConfigError(f"PostgreSQL needs psycopg ({error}): `pip install 'replicator[postgres]'`") from None
            return PostgresSink(settings)
        case TargetKind.PARQUET:
            try:
                from replicator.stream.sinks.parquet import ParquetSink
            except ImportError as error:
                raise ConfigError(f"Parquet needs pyarrow ({error}): `pip install 'replicator[parquet]'`") from None
            return ParquetSink(Path(target.location), options.files)
