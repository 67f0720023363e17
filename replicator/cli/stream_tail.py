"""`replicator stream tail`: the changes in a terminal, or for another program."""

from __future__ import annotations

import contextlib
import os
import select
import sys
from collections.abc import Generator, Iterable, Sequence
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Protocol

import typer
from rich.text import Text

from replicator.cli import options
from replicator.cli.change_text import images_text, json_text, name_text, time_text
from replicator.cli.output import ConsoleProgress, console, errors, print_error
from replicator.errors import BadRequest, BrokerUnavailable
from replicator.limits import READ_CHANGES
from replicator.local.folder import ClusterFolder
from replicator.store.rows import KEYSPACE_TABLE
from replicator.stream.avro_file import ChangeFile
from replicator.stream.change import Change, Op, Position
from replicator.stream.handlers import Selection
from replicator.stream.json_envelope import JsonFormat
from replicator.stream.position import Start, StreamEnd
from replicator.stream.sync import BlockingChangeStream

READ_S = 0.5  # after which what was found is printed, and a closed pipe is noticed
WORDS = {Op.CREATE: "created", Op.UPDATE: "updated", Op.DELETE: "deleted", Op.READ: "read"}
STYLES = {Op.CREATE: "green", Op.UPDATE: "yellow", Op.DELETE: "red", Op.READ: "cyan"}
POSITION_WIDTH, KEY_WIDTH = 10, 16  # shorter ones are padded


class TailFormat(StrEnum):
    TABLE = "table"
    JSON = "json"
    AVRO = "avro"


def tail(
    start: Annotated[
        str | None,
        typer.Option(
            "--from",
            metavar="earliest|latest|OFFSET|TIME",
            help="OFFSET: of the log, such as 1520 or 1520-3. TIME: since when it was published, such as 10m (ago) or "
            "2026-01-31T12:00. Default: earliest, or latest with --follow.",
            show_default=False,
        ),
    ] = None,
    table: Annotated[
        str | None, typer.Option(help="Only changes of this table: kv, the keys of Redis, or a SQL table.")
    ] = None,
    key: Annotated[
        str | None,
        typer.Option(
            "--key",
            metavar="GLOB",
            help="Only keys that match, as in the command KEYS of Redis. Those of SQL tables are JSON.",
        ),
    ] = None,
    format: Annotated[
        TailFormat,
        typer.Option(help="table: lines for people; json: one envelope a line; avro: an object container file."),
    ] = TailFormat.TABLE,
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="End after this many changes.")] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Wait for further changes, until Ctrl-C.")] = False,
    dir: options.Dir = options.DEFAULT_DIR,
    bootstrap: options.KafkaBootstrap = None,
    cluster: options.KafkaCluster = None,
    config: options.KafkaConfig = None,
) -> None:
    """Print the changes that the change stream has published, and with --follow also those to come.

    It reads from Kafka, not from a node. TLS and SASL settings can also be in the environment, as for nodes. To a
    terminal, long values are shortened.

    Example: replicator stream tail --follow
    Example: replicator stream tail --from 10m --key 'user:*' --format json | jq .after
    Example: replicator stream tail --format avro > changes.avro
    """
    selection = Selection.parse(table, key)
    begin = parse_start(start, follow=follow)
    if format is TailFormat.AVRO and sys.stdout.isatty():
        raise typer.BadParameter("avro is not for a terminal: redirect it to a file", param_hint="--format")
    try:
        with (
            contextlib.suppress(KeyboardInterrupt),
            _open(dir, bootstrap, cluster, config, begin, follow=follow) as stream,
            contextlib.closing(_read(stream, shows_progress=not follow)) as read,
        ):
            _print_all(read, selection, _printer(format), limit)
    except BrokenPipeError:  # the program that reads the changes has ended
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def parse_start(text: str | None, *, follow: bool = False, now: datetime | None = None) -> Start:
    """Raises `BadParameter`."""
    if text is None:
        return StreamEnd.LATEST if follow else StreamEnd.EARLIEST
    with contextlib.suppress(ValueError):
        return StreamEnd(text)
    with contextlib.suppress(BadRequest):
        return Position.parse(text)
    moment = options.moment(text, now)
    if moment is not None:
        return moment
    raise typer.BadParameter(
        f"invalid {text!r}: expected earliest, latest, an offset of the log (1520 or 1520-3), a time such as "
        "2026-01-31T12:00, or how long ago (30s, 10m, 2h or 1d)",
        param_hint="--from",
    )


def _open(
    dir: Path, bootstrap: str | None, cluster: str | None, config: Path | None, begin: Start, *, follow: bool
) -> BlockingChangeStream:
    """Raises `ReplicatorError`."""
    kafka = options.find_kafka(dir, bootstrap, cluster, config)
    try:
        return BlockingChangeStream(
            kafka.bootstrap, kafka.cluster, begin, follow=follow, security=kafka.security, consumer="tail"
        )
    except BrokerUnavailable as error:
        if cluster is not None:
            raise
        raise BrokerUnavailable(f"{error}; {ClusterFolder(dir).kafka_remedy()}") from error


class _Printer(Protocol):
    def write(self, change: Change) -> None: ...

    def flush(self) -> None: ...


def _print_all(read: Iterable[Sequence[Change]], selection: Selection, printer: _Printer, limit: int | None) -> None:
    """Raises `ReplicatorError`, `BrokenPipeError`."""
    printed, others, tables = 0, 0, set[str]()
    for changes in read:
        for change in changes:
            if selection.has(change):
                printer.write(change)
                printed += 1
                if printed == limit:
                    break
            else:
                others += 1
                tables.add(change.table)
        printer.flush()
        if printed == limit or _reader_has_ended():
            return
    if others and not printed:  # a name may be misspelled
        print_error(
            "Note:", "cyan", f"none of the {others:,} changes matches. Their tables: {', '.join(sorted(tables))}"
        )


def _read(stream: BlockingChangeStream, *, shows_progress: bool) -> Generator[Sequence[Change], None, None]:
    """What there is, and nothing from time to time. Raises `ReplicatorError`."""
    total = stream.lag()
    has_warned = False  # since the last changes
    with ConsoleProgress(errors) as progress:
        while not stream.has_ended:
            try:
                changes = stream.read(READ_CHANGES, READ_S)
            except BrokerUnavailable as error:
                if not has_warned:
                    print_error("Warning:", "bold yellow", f"{error}: waiting for it")
                has_warned = True
                continue
            has_warned = has_warned and not changes
            yield changes
            if shows_progress and not console.is_terminal:
                progress.bar("read", "reading", total - stream.lag(), total)


def _reader_has_ended() -> bool:
    """Whether stdout is a pipe that nobody reads any more."""
    try:
        poll = select.poll()
        poll.register(sys.stdout.fileno(), 0)
    except OSError:  # of a test: it is not a file
        return False
    return any(event & select.POLLERR for _, event in poll.poll(0))


class _TablePrinter:
    def __init__(self) -> None:
        self._width = console.width if console.is_terminal else None

    def write(self, change: Change) -> None:
        line = describe(change, self._width)
        if self._width is None:
            sys.stdout.write(f"{line.plain}\n")
        else:
            console.print(line, soft_wrap=True)

    def flush(self) -> None:
        sys.stdout.flush()


class _JsonPrinter:
    def __init__(self) -> None:
        self._format = JsonFormat()

    def write(self, change: Change) -> None:
        sys.stdout.buffer.write(self._format.encode(change) + b"\n")

    def flush(self) -> None:
        sys.stdout.buffer.flush()


class _AvroPrinter:
    def __init__(self) -> None:
        self._file = ChangeFile(sys.stdout.buffer)
        self._is_new = True  # nothing was flushed
        self._has_changes = False

    def write(self, change: Change) -> None:
        self._file.write(change)
        self._has_changes = True

    def flush(self) -> None:
        """An empty block for each pause would make the file longer."""
        if self._has_changes or self._is_new:
            self._file.flush()
            sys.stdout.buffer.flush()
        self._has_changes = self._is_new = False


def _printer(format: TailFormat) -> _Printer:
    match format:
        case TailFormat.TABLE:
            return _TablePrinter()
        case TailFormat.JSON:
            return _JsonPrinter()
        case TailFormat.AVRO:
            return _AvroPrinter()


def describe(change: Change, width: int | None) -> Text:
    """Time, position, op, key, field, and old → new: whole, or shortened to the width of a terminal.

    There, changes of today have no date. The name of a SQL table precedes the key.
    """
    time = time_text(datetime.fromtimestamp(change.source.timestamp_us / 1e6), is_short=width is not None)
    if change.table == KEYSPACE_TABLE:
        name = " ".join(name_text(it) for it in (change.row, change.field) if it is not None)
    else:
        name = f"{name_text(change.table.encode())} {json_text(change.row)}"
    line = Text.assemble(
        (time, "dim"),
        f"  {change.position!s:<{POSITION_WIDTH}}  ",
        (WORDS[change.op], STYLES[change.op]),
        f"  {name:<{KEY_WIDTH}}  ",
    )
    room = None if width is None else max(0, width - line.cell_len)
    line.append(images_text((change.before, change.after), room))
    if width is not None:
        line.truncate(width, overflow="ellipsis")
    return line
