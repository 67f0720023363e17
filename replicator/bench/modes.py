"""`replicator bench modes`: what each replication mode and each read level costs, next to Redis and PostgreSQL.

One row after the other, and nothing but the row's own subject is loaded meanwhile. Who waits for more copies is slower:
so each row says what its answer is worth.
"""

from __future__ import annotations

import json as json_format
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack, redirect_stdout
from pathlib import Path
from typing import Annotated, NamedTuple

import typer

from replicator.bench import figures as figures
from replicator.bench.figures import AT_FOLLOWER, AT_LEADER, WRITES, Row
from replicator.bench.load import KEYS, WARM_UP_SHARE
from replicator.bench.subjects import SET, WAIT, Measure, Nodes, postgres_writes, redis_writes
from replicator.cli import cluster, options
from replicator.cli.cluster import Write
from replicator.cli.demo import free_ports
from replicator.cli.output import console, errors, print_json
from replicator.errors import ReplicatorError
from replicator.local.folder import ClusterFolder

CLIENTS = 64
FSYNCS = 100


class Subject(NamedTuple):
    group: str
    name: str
    worth: str
    prepare: Callable[[], AbstractContextManager[Measure]]


def modes(
    seconds: Annotated[float, typer.Option(min=0.1, help="How long each row is measured.")] = 5.0,
    out: Annotated[Path | None, typer.Option(help="Write the JSON here, too.")] = None,
    bootstrap: Annotated[
        str | None, typer.Option(metavar="HOST:PORT", help="A Kafka that runs; otherwise one is started.")
    ] = None,
    json: options.Json = False,
) -> None:
    """Measure all modes and read levels, next to Redis and PostgreSQL if they are installed.

    Example: replicator bench modes --seconds 2
    """
    with redirect_stdout(sys.stderr), tempfile.TemporaryDirectory(prefix="replicator-bench-") as name:
        rows, fsyncs_ms = _measure(Path(name), seconds, bootstrap)
    machine = f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"
    compared = figures.compare(rows)
    report = {
        "machine": machine,
        "clients": CLIENTS,
        "keys": KEYS,
        "seconds": seconds,
        "fsync_p50_ms": fsyncs_ms,  # before and after the peers, which wait for it
        "rows": figures.as_json(rows),
        "expectations": compared,
    }
    if out is not None:
        out.write_text(json_format.dumps(report, indent=2) + "\n")
    if json:
        print_json(report)
        return
    console.print(figures.draw(rows, f"{CLIENTS} clients, {machine}"))
    console.print(figures.draw_expectations(compared))
    console.print(
        f"{KEYS:,} keys of 16 bytes with values of 16 bytes, at random; after a warm-up of {WARM_UP_SHARE:.0%} of each "
        "row's time. The clients run on the same cores as what they measure, one driver for all of it but PostgreSQL, "
        f"which pgbench drives. An fsync took {fsyncs_ms[0]:.2f} ms before Redis and PostgreSQL were "
        f"measured, and {fsyncs_ms[1]:.2f} ms after them.",
        highlight=False,
    )


def _fsync_ms(folder: Path) -> float:
    """What those who wait for a disk have to wait at least, of one page."""
    spent_ms = []
    with open(folder / "fsync", "wb", buffering=0) as file:
        for _ in range(FSYNCS):
            file.write(bytes(4096))
            began = time.perf_counter()
            os.fsync(file.fileno())
            spent_ms.append((time.perf_counter() - began) * 1000)
    return statistics.median(spent_ms)


def _measure(dir: Path, seconds: float, bootstrap: str | None) -> tuple[list[Row], list[float]]:
    peers = _peers(dir, seconds)
    rows = []
    with ExitStack() as stack:
        folder = ClusterFolder(dir / "cluster")
        stack.callback(lambda: cluster.down(folder.dir, purge=True) if folder.exists() else None)
        cluster.up(3, folder.dir, bootstrap, free_ports(3), f"bench-{os.getpid()}")
        nodes = Nodes(folder, options.environment_password(), seconds)
        with errors.status("writing all keys"):
            nodes.fill()
        ours = _ours(nodes)
        total = len(ours) + len(peers)
        rows += [_row(subject, f"{place} of {total}") for place, subject in enumerate(ours, 1)]
    before_ms = _fsync_ms(dir)
    rows += [_row(subject, f"{place} of {total}") for place, subject in enumerate(peers, len(ours) + 1)]
    fsyncs_ms = [before_ms, _fsync_ms(dir)]
    return sorted(rows, key=lambda row: (WRITES, AT_LEADER, AT_FOLLOWER).index(row.group)), fsyncs_ms


def _row(subject: Subject, place: str) -> Row:
    """What cannot be measured is no reason to stop."""
    row = Row(*subject[:3])
    with errors.status(f"{place}: {row.group}, {row.name}"):
        try:
            with subject.prepare() as measure:
                many = measure(CLIENTS)
                single_p50_ms, trouble = None, many.trouble
                if row.group == WRITES:
                    single = measure(1)
                    single_p50_ms, trouble = single.p50_ms, trouble or single.trouble
        except ReplicatorError as error:
            return Row(*subject[:3], trouble=str(error))
    return Row(*subject[:3], many.per_s, many.p50_ms, many.p99_ms, single_p50_ms, trouble)


def _ours(nodes: Nodes) -> Sequence[Subject]:
    one, both = ("n2",), ("n2", "n3")

    def writes(name: str, worth: str, sync: Sequence[str], wait_for: str, write: Write) -> Subject:
        return Subject(WRITES, name, worth, lambda: nodes.writes(sync, wait_for, write))

    def reads(group: str, id: str, level: str, worth: str) -> Subject:
        return Subject(group, level, worth, lambda: nodes.reads(id, level))

    def local_reads(write: Write) -> Subject:
        name = f"linearizable at a sync follower, {write} mode"
        return Subject(
            AT_FOLLOWER, name, "all that was answered", lambda: nodes.reads("n2", "linearizable", one, write)
        )

    log = "page cache of 1 broker"
    return (
        writes(figures.ASYNC, log, (), "all", Write.ASYNC),
        reads(AT_LEADER, "n1", figures.EVENTUAL, "what this node has"),
        reads(AT_LEADER, "n1", "bounded 500", "all that was answered"),
        reads(AT_LEADER, "n1", "session", "own reads and writes"),
        reads(AT_LEADER, "n1", figures.LINEARIZABLE, "all that was answered"),
        reads(AT_FOLLOWER, "n2", figures.EVENTUAL, "what this node has"),
        reads(AT_FOLLOWER, "n2", "bounded 500", "all that is older than 500 ms"),
        reads(AT_FOLLOWER, "n2", "session", "own reads and writes"),
        reads(AT_FOLLOWER, "n2", figures.LINEARIZABLE, "all that was answered"),
        writes(figures.QUORUM, f"{log} + store of 1 of 2 replicas", both, "quorum:1", Write.SYNC),
        writes(figures.SYNC_1, f"{log} + store of 1 replica", one, "all", Write.SYNC),
        writes(figures.SYNC_2, f"{log} + stores of 2 replicas", both, "all", Write.SYNC),
        writes(figures.SUSPEND, f"{log} + store of 1 replica, nowhere the old value", one, "all", Write.SUSPEND),
        local_reads(Write.SUSPEND),
        writes(figures.INVALIDATE, f"{log} + store of 1 replica, nowhere the old value", one, "all", Write.INVALIDATE),
        local_reads(Write.INVALIDATE),
    )


def _peers(dir: Path, seconds: float) -> Sequence[Subject]:
    always = ("--appendonly", "yes", "--appendfsync", "always")

    def redis(name: str, worth: str, folder: str, request: Sequence[Sequence[str]], *settings: str) -> Subject:
        return Subject(WRITES, name, worth, lambda: redis_writes(dir / folder, seconds, request, *settings))

    return (
        redis(figures.REDIS_ALONE, "memory of 1 Redis", "redis", [SET]),
        redis(figures.REDIS_WAIT, "memory of 2 Redis", "redis-wait", [SET, WAIT]),
        redis(figures.REDIS_FSYNC, "fsync at 2 Redis", "redis-fsync", [SET, WAIT], *always),
        Subject(
            WRITES,
            figures.POSTGRES,
            "WAL fsync at the primary and the standby, applied at both",
            lambda: postgres_writes(seconds),
        ),
    )
