"""`replicator sink`: copies the change stream to other systems."""

from __future__ import annotations

import logging
import signal
import time
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer

from replicator.address import Address
from replicator.cli import options
from replicator.cli.output import (
    ConsoleHandler,
    ConsoleProgress,
    console,
    count,
    plain_table,
    print_json,
    print_result,
    print_whole,
)
from replicator.local.sinks import RunOptions, SinkFile, SinkFolder, reset_sink, run_sink, settings_for_run
from replicator.stream.kafka_access import KafkaAccess
from replicator.stream.sinks.report import SinkReport, SinkState
from replicator.stream.sinks.runner import BatchLimits, ProcessControl
from replicator.stream.sinks.settings import FileLimits, SinkSettings, TargetOptions

app = typer.Typer(help="Copy the change stream to files, PostgreSQL or HTTP endpoints.", no_args_is_help=True)

_BATCH, _FILE = BatchLimits(), FileLimits()  # the defaults
_WAIT_MS, _FILE_MB, _FILE_S = int(_BATCH.wait_s * 1000), _FILE.bytes >> 20, int(_FILE.seconds)

Name = Annotated[str, typer.Argument(help="The name of the sink, unique in its cluster.")]
Maps = Annotated[
    list[str] | None,
    typer.Option(
        "--map",
        metavar="PATTERN=TABLE",
        help="PostgreSQL: the table of the keys that match; by default all are in kv. May be repeated. sql:NAME=TABLE: "
        "the table of a SQL table; by default each is copied to one of its own name.",
    ),
]
Columns = Annotated[
    list[str] | None,
    typer.Option(
        "--columns",
        metavar="[TABLE=]FIELD,…",
        help="PostgreSQL: fields of hashes that are columns; by default all are in one of type jsonb.",
    ),
]
Authorization = Annotated[
    str,
    typer.Option(
        "--authorization",
        envvar="REPLICATOR_SINK_AUTHORIZATION",
        show_default=False,
        show_envvar=True,
        help="HTTP: the header Authorization; better set in the environment.",
    ),
]


@app.command()
def run(
    name: Name,
    target: Annotated[
        str | None,
        typer.Argument(
            metavar="[jsonl:PATH|parquet:DIR|postgres:DSN|http://…]",
            help="Where the changes go; may be left out if the sink has run before.",
        ),
    ] = None,
    map: Maps = None,
    columns: Columns = None,
    dead_letters: Annotated[
        Path | None, typer.Option(help="HTTP: a file for changes that the endpoint refuses.", show_default=False)
    ] = None,
    authorization: Authorization = "",
    batch: Annotated[int, typer.Option(min=1, max=100_000, help="The most changes in one batch.")] = _BATCH.changes,
    wait_ms: Annotated[
        int, typer.Option(min=0, max=60_000, help="How long a batch waits for more changes.")
    ] = _WAIT_MS,
    file_mb: Annotated[int, typer.Option(min=1, max=4096, help="Parquet: the size of a file, in MiB.")] = _FILE_MB,
    file_seconds: Annotated[
        int, typer.Option(min=1, max=86_400, help="Parquet: the age of a complete file.")
    ] = _FILE_S,
    once: Annotated[bool, typer.Option("--once", help="End when all that is published is written.")] = False,
    metrics: Annotated[
        Address | None,
        typer.Option(metavar="HOST:PORT", parser=options.parse_address, help="Where to serve metrics for Prometheus."),
    ] = None,
    dir: options.Dir = options.DEFAULT_DIR,
    bootstrap: options.KafkaBootstrap = None,
    cluster: options.KafkaCluster = None,
    config: options.KafkaConfig = None,
) -> None:
    """Copy the change stream to a target, from the sink's checkpoint on, until SIGTERM or Ctrl-C.

    A new sink begins with the earliest change. Passwords of PostgreSQL come from PGPASSWORD or ~/.pgpass.

    Example: replicator sink run airports postgres:dbname=shop --map 'airport:*=airports' --columns name,city
    """
    found = options.find_kafka(dir, bootstrap, cluster, config)
    kafka = KafkaAccess(found.bootstrap, found.cluster, None, found.security)
    folder = SinkFolder(dir)
    settings = settings_for_run(folder, name, kafka.cluster, target, map or [], columns or [], dead_letters)
    _log_to_console()
    control = ProcessControl(lambda: folder.is_paused(name))
    _stop_on_signals(control)
    to_target = TargetOptions(authorization, FileLimits(file_mb << 20, file_seconds))
    run_options = RunOptions(BatchLimits(changes=batch, wait_s=wait_ms / 1000), to_target, metrics, once)
    with ConsoleProgress(console) as progress:
        display = _Display(progress, settings)
        run_sink(folder, settings, kafka, run_options, display.show, control)
        progress.done(f"stopped after {count(display.written, 'change', 'changes')}")


@app.command("list")
def list_(dir: options.Dir = options.DEFAULT_DIR, json: options.Json = False) -> None:
    """List the sinks of the cluster.

    Example: replicator sink list
    """
    folder = SinkFolder(dir)
    files = [folder.load(name) for name in folder.names()]
    if json:
        print_json([_as_json(folder, file) for file in files])
        return
    table = plain_table("sink", "state", "target", "written", "changes/s", "lag", "updated")
    for file in files:
        report = file.report
        table.add_row(
            file.settings.name,
            report.state,
            str(file.settings.target),
            str(report.written),
            f"{report.changes_per_s:.0f}",
            str(report.lag_messages),
            _moment(file.updated_ms),
        )
    print_whole(table)


@app.command()
def status(name: Name, dir: options.Dir = options.DEFAULT_DIR, json: options.Json = False) -> None:
    """Show the state of a sink. Exit code 1 if it is failed, killed or retrying.

    Example: replicator sink status airports
    """
    folder = SinkFolder(dir)
    file = folder.load(name)
    if json:
        print_json(_as_json(folder, file))
    else:
        table = plain_table("", "")
        table.show_header = False
        for label, text in _described(file, folder.is_paused(name)):
            table.add_row(label, text)
        print_whole(table)
    if file.report.state in (SinkState.FAILED, SinkState.KILLED, SinkState.RETRYING):
        raise typer.Exit(1)


@app.command()
def pause(name: Name, dir: options.Dir = options.DEFAULT_DIR, json: options.Json = False) -> None:
    """Let a sink finish its batch, and write no further changes until it is resumed, also if it is started again.

    Example: replicator sink pause airports
    """
    SinkFolder(dir).set_paused(name, True)
    print_result(f"sink {name} pauses", {"sink": name, "paused": True}, json=json)


@app.command()
def resume(name: Name, dir: options.Dir = options.DEFAULT_DIR, json: options.Json = False) -> None:
    """End a pause.

    Example: replicator sink resume airports
    """
    SinkFolder(dir).set_paused(name, False)
    print_result(f"sink {name} resumes", {"sink": name, "paused": False}, json=json)


@app.command()
def reset(
    name: Name,
    delete: Annotated[bool, typer.Option("--delete", help="Also remove the sink from the list.")] = False,
    dir: options.Dir = options.DEFAULT_DIR,
    json: options.Json = False,
) -> None:
    """Delete the checkpoint of a sink that is not running, so that it begins with the earliest change again.

    What it has written stays in the target.

    Example: replicator sink reset airports
    """
    file = reset_sink(SinkFolder(dir), name, delete=delete)
    text = f"deleted the checkpoint of sink {name} in {file.settings.target}"
    print_result(text, {"sink": name, "deleted": delete}, json=json)


class _Display:
    """Says once that the sink has caught up; before, a bar shows how far it is."""

    def __init__(self, progress: ConsoleProgress, settings: SinkSettings) -> None:
        self.written = 0
        self._progress = progress
        self._name = settings.name
        self._has_caught_up = False
        progress.done(f"sink {settings.name} writes to {settings.target}")

    def show(self, report: SinkReport) -> None:
        self.written = report.written
        if report.state is not SinkState.RUNNING or report.batches == 0:
            return
        if self._has_caught_up:
            self._progress.bar(
                "", f"{self._name}: {report.written:,} changes, {report.changes_per_s:,.0f}/s", report.written
            )
        elif report.lag_messages > 0:
            total = report.written + report.lag_messages
            self._progress.bar("catching up", f"{self._name} is catching up", report.written, total)
        else:
            self._has_caught_up = True
            self._progress.done(f"caught up after {count(report.written, 'change', 'changes')}")


def _log_to_console() -> None:
    handler = ConsoleHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
    logging.basicConfig(level=logging.INFO, handlers=[handler])


def _stop_on_signals(control: ProcessControl) -> None:
    """The first signal lets the batch finish, the second one ends the process at once."""

    def handle(number: int, frame: FrameType | None) -> None:
        control.stop_requested = True
        signal.signal(number, signal.SIG_DFL)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, handle)


def _as_json(folder: SinkFolder, file: SinkFile) -> dict[str, object]:
    return {**file.as_json(), "paused": folder.is_paused(file.settings.name)}


def _described(file: SinkFile, is_paused: bool) -> list[tuple[str, str]]:
    settings, report = file.settings, file.report
    process = f"process {file.process.pid}, " if file.process else ""
    rows = [
        ("sink", f"{settings.name} of {settings.cluster}"),
        ("state", report.state + (", to be paused" if is_paused and report.state is not SinkState.PAUSED else "")),
        ("target", str(settings.target)),
        ("written", f"{count(report.written, 'change', 'changes')} since it was started, {report.changes_per_s:.0f}/s"),
        ("lag", f"{count(report.lag_messages, 'message', 'messages')}, {report.lag_s:.1f} s"),
        ("position", "none" if report.position is None else ", ".join(map(str, report.position.next_offsets))),
        ("updated", f"{process}{_moment(file.updated_ms)}"),
    ]
    if report.last_error:
        rows.append(("last error", report.last_error))
    return rows


def _moment(ms: int) -> str:
    age_s = max(0.0, time.time() - ms / 1000)
    if age_s < 60:
        return f"{age_s:.0f} s ago"
    return datetime.fromtimestamp(ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
