"""`replicator history`: who changed a key when."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import sys
from collections import deque
from collections.abc import Iterable
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from replicator.cli import options
from replicator.cli.change_text import images_text, name_text, time_text
from replicator.cli.options import KafkaOfCluster, views_folder
from replicator.cli.output import ConsoleProgress, console, errors
from replicator.errors import BrokerUnavailable
from replicator.local.folder import ClusterFolder
from replicator.local.snapshots import show_restore
from replicator.log.kafka.log import KafkaLog
from replicator.position import Offset
from replicator.recovery.history import ChangeKind, KeyChange
from replicator.recovery.history_reader import read_history
from replicator.snapshots.repository import Repository, StoredSnapshot
from replicator.snapshots.transfer import OnTransferred
from replicator.store.snapshot import Manifest

STYLES = {
    ChangeKind.CREATED: "green",
    ChangeKind.UPDATED: "yellow",
    ChangeKind.EXPIRY_CHANGED: "yellow",
    ChangeKind.DELETED: "red",
    ChangeKind.EXPIRED: "red",
    ChangeKind.SNAPSHOT: "cyan",
}
POSITION_WIDTH, LEADER_WIDTH, KIND_WIDTH = 10, 10, 14  # shorter ones are padded
HELD = 1000  # changes that are printed at once, so that they do not interrupt the progress bar of a terminal


class HistoryFormat(StrEnum):
    TABLE = "table"
    JSON = "json"


def history(
    key: Annotated[str, typer.Argument(help="A key of Redis: a string or a hash.", show_default=False)],
    start: Annotated[
        str | None,
        typer.Option(
            "--from",
            metavar="OFFSET|TIME",
            help="Only changes from this offset of the log on, or since this time: 10m (ago) or 2026-01-31T12:00.",
            show_default=False,
        ),
    ] = None,
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="Only the last changes, so many.")] = None,
    format: Annotated[
        HistoryFormat,
        typer.Option(
            parser=options.choice(HistoryFormat),
            metavar=options.choices(HistoryFormat),
            help="table: lines for people; json: one object a line.",
        ),
    ] = HistoryFormat.TABLE,
    dir: options.Dir = options.DEFAULT_DIR,
    bootstrap: options.KafkaBootstrap = None,
    cluster: options.KafkaCluster = None,
    config: options.KafkaConfig = None,
    repository: options.RepositoryUrl = None,
) -> None:
    """List the changes of a key: when, at which offset, by which leader, and the old and the new value.

    It reads the log in Kafka, and counts the records that every replica applies; no node needs to run. To a terminal,
    long values are shortened.

    Example: replicator history user:42
    Example: replicator history user:42 --from 2h --format json | jq .after.value
    """
    since = _parse_since(start)
    kafka = options.find_kafka(dir, bootstrap, cluster, config)
    has_folder = ClusterFolder(dir).exists()
    wants_snapshots = repository is not None or has_folder
    snapshots = options.open_repository(dir, repository, needs_one=False) if wants_snapshots else None
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)  # its errors reach us as exceptions
    try:
        with contextlib.suppress(KeyboardInterrupt), ConsoleProgress(errors) as progress:
            output = _Output(kafka.cluster, os.fsencode(key), format, limit, progress)
            asyncio.run(_read(kafka, snapshots, views_folder(dir), since, output))
    except BrokenPipeError:  # the program that reads the output has ended
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except BrokerUnavailable as error:
        if cluster is not None:
            raise
        raise BrokerUnavailable(f"{error}; {ClusterFolder(dir).kafka_remedy()}") from error


def _parse_since(text: str | None) -> Offset | datetime | None:
    """Raises `BadParameter`."""
    if text is None:
        return None
    if text.isdecimal() and len(text) < 19:
        return Offset(int(text))
    found = options.moment(text)
    if found is None:
        raise typer.BadParameter(
            f"invalid {text!r}: expected an offset of the log, a time such as 2026-01-31T12:00, or how long ago (30s, "
            "10m, 2h or 1d)",
            param_hint="--from",
        )
    return found


async def _read(
    kafka: KafkaOfCluster,
    snapshots: Repository | None,
    temporary: Path,
    since: Offset | datetime | None,
    output: _Output,
) -> None:
    """Raises `ReplicatorError`."""
    log = await KafkaLog.open(kafka.bootstrap, kafka.cluster, security=kafka.security)
    try:
        await read_history(log, kafka.cluster, output.row, since, snapshots, temporary, output)
    finally:
        await log.close()
    output.finish()


class _Output:
    """`HistoryOutput`: prints at once, unless only the last changes are wanted, or it would disturb a progress bar."""

    def __init__(
        self, cluster: str, row: bytes, format: HistoryFormat, limit: int | None, progress: ConsoleProgress
    ) -> None:
        self.row = row
        self._cluster = cluster
        self._format = format
        self._limit = limit
        self._progress = progress
        self._width = console.width if console.is_terminal else None
        self._held: deque[KeyChange] = deque(maxlen=limit)
        self._found = 0

    def show_restore(self, stored: StoredSnapshot) -> OnTransferred:
        return show_restore(self._progress, stored)

    def note_begin(self, start: Offset, base: Manifest, *, is_restored: bool) -> None:
        why = "the cluster was restored from a snapshot" if is_restored else "it was trimmed"
        self._progress.notice(
            f"the log begins at offset {start}, because {why}: the history is complete from offset {base.offset + 1} "
            f"on; the state before it is that of snapshot {base.name}"
        )

    def add(self, found: Iterable[KeyChange]) -> None:
        for it in found:
            self._found += 1
            self._held.append(it)

    def show_progress(self, read: int, total: int) -> None:
        if self._limit is None and self._held and (not console.is_terminal or len(self._held) >= HELD):
            self._print()
        self._progress.bar("read", "reading the log", read, total)

    def finish(self) -> None:
        self._progress.clear()
        self._print()
        if not self._found and self._format is HistoryFormat.TABLE:
            self._progress.notice(f"cluster {self._cluster} has no change of {name_text(self.row)} in this range")

    def _print(self) -> None:
        if console.is_terminal:
            self._progress.clear()
        for found in self._held:
            if self._format is HistoryFormat.JSON:
                sys.stdout.write(f"{json.dumps(found.as_json())}\n")
            elif self._width is None:
                sys.stdout.write(f"{describe(found, None).plain}\n")
            else:
                console.print(describe(found, self._width), soft_wrap=True)
        sys.stdout.flush()
        self._held.clear()


def describe(found: KeyChange, width: int | None) -> Text:
    """Time, position, leader, kind, field, and old → new: whole, or shortened to the width of a terminal."""
    change = found.change
    time = time_text(datetime.fromtimestamp(change.source.timestamp_us / 1e6), is_short=width is not None)
    leader = "" if found.leader is None else found.leader.node
    line = Text.assemble(
        (time, "dim"),
        f"  {change.position!s:<{POSITION_WIDTH}}  {change.source.epoch:>3} {leader:<{LEADER_WIDTH}}  ",
        (f"{found.kind:<{KIND_WIDTH}}", STYLES[found.kind]),
        "" if change.field is None else f"  {name_text(change.field)}",
        "  ",
    )
    room = None if width is None else max(0, width - line.cell_len)
    line.append(images_text((change.before, change.after), room))
    if width is not None:
        line.truncate(width, overflow="ellipsis")
    return line
