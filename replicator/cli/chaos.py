"""`replicator chaos`: what faults cost, measured on real processes under load."""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich import box
from rich.progress import MofNCompleteColumn
from rich.table import Table

from replicator.chaos.client import Connection, NotConnected
from replicator.chaos.events import Arena, EventKind, Run
from replicator.chaos.figures import Figures, delete, figures
from replicator.chaos.ledger import Ledger
from replicator.chaos.load import Load
from replicator.cli import cluster, options
from replicator.cli.demo import free_ports
from replicator.cli.output import console, print_json, progress
from replicator.errors import ConfigError, ReplicatorError
from replicator.local.admin_client import find_cluster
from replicator.local.folder import ClusterFolder

app = typer.Typer(help="Break a cluster under load, and see what it costs.", no_args_is_help=True)

NODES = 3
ALL_KINDS = ",".join(EventKind)


@app.command()
def failover(
    runs: Annotated[int, typer.Option(min=1, help="How many of each kind.")] = 50,
    kinds: Annotated[str, typer.Option(help="Which, with commas between them.")] = ALL_KINDS,
    json: options.Json = False,
    dir: Annotated[
        Path | None, typer.Option("--dir", help="The folder of a cluster that runs; otherwise one is started.")
    ] = None,
    bootstrap: Annotated[
        str | None, typer.Option(metavar="HOST:PORT", help="A Kafka that runs; otherwise one is started.")
    ] = None,
) -> None:
    """Take the leader away under load, again and again: how long do writes pause, and is any lost?

    kill: kill -9 for the leader. pause: it stands still for 2 s, and comes back. stall: the follower that is next in
    line stands still while the leader is killed. handover: `replicator replica promote`. Exit code 1 if an
    acknowledged write is lost, a rejected one is there, a read was stale, or a handover failed a write.

    Example: replicator chaos failover --runs 10 --kinds kill,handover
    """
    chosen = _kinds(kinds)
    console.quiet = json
    with _cluster(dir, bootstrap) as folder:
        try:
            found = asyncio.run(_campaign(folder, chosen, runs))
        except (NotConnected, OSError) as error:
            raise ReplicatorError(f"a node that should answer does not ({error!r}): see `replicator status`") from error
    broken = any(it.broken for it in found)
    if json:
        print_json({"kinds": [it.as_json() for it in found], "ok": not broken})
    else:
        console.print(_table(found))
    if broken:
        raise typer.Exit(1)


def _kinds(text: str) -> list[EventKind]:
    """Raises `ConfigError`."""
    try:
        return [*dict.fromkeys(EventKind(name.strip()) for name in text.split(","))]
    except ValueError:
        raise ConfigError(f"--kinds {text}: choose from {ALL_KINDS}, with commas between them") from None


@contextmanager
def _cluster(dir: Path | None, bootstrap: str | None) -> Iterator[ClusterFolder]:
    """The one in `dir`, or one that lives no longer than this. Raises `ConfigError`."""
    if dir is not None:
        if bootstrap is not None:
            raise ConfigError("the cluster in --dir has its Kafka: leave --bootstrap out")
        folder = ClusterFolder(dir)
        if len(folder.load().nodes) < 2:
            raise ConfigError("nobody follows where there is one node: `replicator replica add n2` adds another")
        yield folder
        return
    own = Path(tempfile.mkdtemp(prefix="replicator-chaos-"))
    folder = ClusterFolder(own)
    try:
        cluster.up(NODES, own, bootstrap, free_ports(NODES), f"chaos-{os.getpid()}")
        yield folder
    finally:
        if folder.exists():
            cluster.down(own, purge=True)
        shutil.rmtree(own, ignore_errors=True)


async def _campaign(folder: ClusterFolder, kinds: Sequence[EventKind], runs: int) -> list[Figures]:
    password = options.environment_password()
    client = find_cluster(folder.dir, None, password)
    leader = (await asyncio.to_thread(client.any_status))["node"]["leader"]
    ports = {entry.id: entry.resp_port for entry in folder.load().nodes}
    ledger = Ledger(f"chaos:{os.getpid()}:")
    load = Load(ports, password, leader, ledger)
    arena = Arena(folder, client, password, load, ledger)
    done: list[Run] = []
    load.start()
    try:
        with progress(MofNCompleteColumn()) as bars:
            tasks = {kind: bars.add_task(kind, total=runs) for kind in kinds}
            for kind in [*kinds] * runs:
                done.append(await arena.play(kind))
                bars.update(tasks[kind], advance=1)
    finally:
        await load.stop()
    nodes = {id: Connection(port, password) for id, port in ports.items()}
    try:
        with progress(MofNCompleteColumn()) as bars:
            found = [
                await figures(kind, [run for run in done if run.kind is kind], ledger, [*nodes.values()])
                for kind in bars.track(kinds, description="reading everything back")
            ]
        await delete(range(len(ledger)), ledger, nodes[await arena.leader()])
    finally:
        for node in nodes.values():
            node.close()
    return found


def _table(found: Sequence[Figures]) -> Table:
    shown = Table("kind", title="How long writes pause, in ms", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for name in ("runs", "p50", "p95", "p99", "max", "acked", "lost", "failed\ntwice", "stale\nreads"):
        shown.add_column(name, justify="right")
    for it in found:
        pauses = (f"{it.pause_ms(percent):,.0f}" for percent in (50, 95, 99, 100))
        failed = _must_be_0(it.failed_twice) if it.kind is EventKind.HANDOVER else f"{it.failed_twice:,}"
        faults = (_must_be_0(it.lost), failed, _must_be_0(it.stale_reads))
        shown.add_row(it.kind, str(len(it.pauses_ms)), *pauses, f"{it.acknowledged:,}", *faults)
    if there := sum(it.rejected_there for it in found):
        shown.caption = f"[red]{there:,} writes were rejected, and are there all the same[/]"
    return shown


def _must_be_0(number: int) -> str:
    return f"[red]{number:,}[/]" if number else "[green]0[/]"
