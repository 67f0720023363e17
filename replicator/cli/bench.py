"""`replicator bench`: how fast is it, next to what it is made of and what it would replace?

Everything runs on this machine, one after the other; a figure means little but as a ratio to the raw figures of the
same run. The floors are those of a prototype of the write path, as ratios to the raw figures measured beside it.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import tempfile
import time
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from replicator.bench import modes as bench_modes
from replicator.bench import peers as bench_peers
from replicator.bench import raw as bench_raw
from replicator.bench.driver import Figure, Load, redis_benchmark
from replicator.cli import cluster, options
from replicator.cli.demo import free_ports
from replicator.cli.output import console
from replicator.errors import ConfigError, ReplicatorError
from replicator.local.admin_client import find_cluster
from replicator.local.folder import ClusterFolder
from replicator.local.waiting import wait_ready

LOADS = (
    Load("1 client", clients=1, pipeline=1, share=0.05),
    Load("16 clients", clients=16, pipeline=1, share=0.5),
    Load("64 clients", clients=64, pipeline=1, share=0.5),
    Load("16 clients x 16 pipelined", clients=16, pipeline=16, share=1.0),
)
# Design, section 10: the prototype's rates over one append at a time (0.3 ms) and over LMDB gets (3.2 million a second)
FLOORS = {
    ("SET", "1 client"): ("appends", 2_800 * 0.0003),
    ("SET", "64 clients"): ("appends", 37_000 * 0.0003),
    ("SET", "16 clients x 16 pipelined"): ("appends", 80_000 * 0.0003),
    ("GET", "64 clients"): ("gets", 89_000 / 3_200_000),
    ("GET", "16 clients x 16 pipelined"): ("gets", 425_000 / 3_200_000),
}
REPLAY_FLOOR_PER_S = 100_000
MEMORY_TOLERANCE = 0.2
SAMPLES = 10
REPLAY_S = 600
POLL_S = 0.2  # each question takes the follower a millisecond


@dataclass
class Report:
    """What goes into the JSON file."""

    machine: str
    raw: dict[str, float] = field(default_factory=dict)
    ours: list[Figure] = field(default_factory=list)
    redis: list[Figure] = field(default_factory=list)
    floors: list[dict[str, Any]] = field(default_factory=list)
    memory: dict[str, Any] = field(default_factory=dict)
    replay: dict[str, float] = field(default_factory=dict)


app = typer.Typer()
app.command("modes")(bench_modes.modes)


@app.callback(invoke_without_command=True)
def bench(
    context: typer.Context,
    requests: Annotated[int, typer.Option(min=1_000, help="Requests of the fullest load.")] = 200_000,
    writes: Annotated[
        int, typer.Option(min=10_000, help="Writes over which the leader's memory is watched.")
    ] = 2_000_000,
    out: Annotated[Path, typer.Option(help="Where the JSON goes.")] = Path("bench.json"),
    bootstrap: Annotated[
        str | None, typer.Option(metavar="HOST:PORT", help="A Kafka that runs; otherwise one is started.")
    ] = None,
) -> None:
    """Measure reads, writes, replay and memory, next to raw Kafka, raw LMDB and Redis in the same run.

    Example: replicator bench --requests 50000 --writes 200000
    """
    if context.invoked_subcommand is not None:
        return
    report = Report(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}")
    dir = Path(tempfile.mkdtemp(prefix="replicator-bench-"))
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, dir, ignore_errors=True)
        folder = ClusterFolder(dir / "cluster")
        stack.callback(lambda: cluster.down(folder.dir, purge=True) if folder.exists() else None)
        cluster.up(1, folder.dir, bootstrap, free_ports(2), f"bench-{os.getpid()}")
        file = folder.load()
        _measure_raw(report, file.bootstrap, dir)
        _measure_redis(report, dir, requests)
        port = file.node("n1").resp_port
        report.ours = _run_loads("replicator", port, requests)
        _watch_memory(report, folder, port, writes)
        _replay(report, folder)
    _compare_with_floors(report)
    out.write_text(json.dumps(asdict(report), indent=2) + "\n")
    _show(report)
    console.print(f"written to {out}")


def _measure_raw(report: Report, bootstrap: str, dir: Path) -> None:
    with console.status("raw Kafka"):
        report.raw |= bench_raw.kafka(bootstrap)
    with console.status("raw LMDB"):
        report.raw |= bench_raw.lmdb_rates(dir / "lmdb")


def _measure_redis(report: Report, dir: Path, requests: int) -> None:
    with ExitStack() as stack:
        try:
            port = stack.enter_context(bench_peers.redis_server(dir / "redis"))
        except ConfigError as error:
            console.print(f"{error}: nothing to compare with")
            return
        report.redis = _run_loads("Redis", port, requests)


def _run_loads(who: str, port: int, requests: int) -> list[Figure]:
    figures = []
    for load in LOADS:
        for command in ("SET", "GET"):
            with console.status(f"{who}: {command}, {load.name}"):
                figures.append(redis_benchmark(port, command, load, requests))
    return figures


def _watch_memory(report: Report, folder: ClusterFolder, port: int, writes: int) -> None:
    """The leader's own memory; the pages of its store belong to the system's cache."""
    mark = folder.process("n1")
    if mark is None:
        raise ReplicatorError(f"n1 ended: {folder.last_words('n1')}")
    load = Load("memory", clients=16, pipeline=16, share=1.0)
    samples = []
    for index in range(SAMPLES):
        with console.status(f"memory of the leader: {index * writes // SAMPLES} of {writes} writes"):
            redis_benchmark(port, "SET", load, writes // SAMPLES)
        samples.append(_anonymous_bytes(mark.pid))
    growth = samples[-1] / samples[0] - 1
    report.memory = {"writes": writes, "bytes": samples, "growth": growth, "flat": abs(growth) <= MEMORY_TOLERANCE}


def _anonymous_bytes(pid: int) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    raise ReplicatorError("this system does not tell the memory of a process")


def _replay(report: Report, folder: ClusterFolder) -> None:
    """A fresh follower reads the whole log while nobody writes."""
    file = folder.load().with_node("n2")
    client = find_cluster(folder.dir, None, options.environment_password())
    target = client.any_status()["node"]["applied_offset"]
    entry = file.node("n2")
    folder.start_node(file, entry)
    folder.save(file)
    node = client.node(entry.http)
    first: tuple[float, int] | None = None
    deadline = time.monotonic() + REPLAY_S
    with console.status(f"replay of {target + 1} records"):
        while time.monotonic() < deadline:
            try:
                applied = node.status()["node"].get("applied_offset", -1)
            except ReplicatorError:
                applied = -1
            now = time.monotonic()
            if applied >= 0 and first is None:
                first = (now, applied)
            if applied >= target:
                break
            time.sleep(POLL_S)
        else:
            raise ReplicatorError(f"the follower has not caught up after {REPLAY_S} s")
    began, already = first or (now, applied)
    if applied > already:
        report.replay = {"records": applied - already, "records_per_s": (applied - already) / (now - began)}
    wait_ready(folder, client, [entry], REPLAY_S)


def _compare_with_floors(report: Report) -> None:
    raw = {"appends": report.raw["kafka_appends_per_s"], "gets": report.raw["lmdb_gets_per_s"]}
    for figure in report.ours:
        floor = FLOORS.get((figure.command, figure.load))
        if floor is not None:
            unit, ratio = floor
            measured = figure.per_s / raw[unit]
            report.floors.append(
                {
                    "what": f"{figure.command}, {figure.load}",
                    "per": unit,
                    "ratio": measured,
                    "floor": ratio,
                    "met": measured >= ratio,
                }
            )
    if report.replay:
        rate = report.replay["records_per_s"]
        report.floors.append(
            {
                "what": "replay",
                "per": "s",
                "ratio": rate,
                "floor": REPLAY_FLOOR_PER_S,
                "met": rate >= REPLAY_FLOOR_PER_S,
            }
        )


def _show(report: Report) -> None:
    raw = Table("raw", "", title=report.machine)
    for name, value in report.raw.items():
        raw.add_row(name.replace("_", " "), f"{value:,.2f}" if value < 100 else f"{value:,.0f}")
    console.print(raw)
    peers = {(figure.command, figure.load): figure for figure in report.redis}
    shown = Table("command", "load", "a second", "p50 ms", "p99 ms", "Redis a second", "Redis p50 ms")
    for figure in report.ours:
        peer = peers.get((figure.command, figure.load))
        redis = (f"{peer.per_s:,.0f}", f"{peer.p50_ms:.2f}") if peer else ("", "")
        times = (f"{figure.p50_ms:.2f}", f"{figure.p99_ms:.2f}")
        shown.add_row(figure.command, figure.load, f"{figure.per_s:,.0f}", *times, *redis)
    console.print(shown)
    floors = Table("floor", "ratio to raw", "at least", "")
    for it in report.floors:
        mark = "[green]met[/]" if it["met"] else "[red]missed[/]"
        floors.add_row(f"{it['what']} / {it['per']}", f"{it['ratio']:,.3f}", f"{it['floor']:,.3f}", mark)
    console.print(floors)
    megabytes = ", ".join(f"{sample >> 20}" for sample in report.memory["bytes"])
    verdict = "[green]flat[/]" if report.memory["flat"] else "[red]not flat[/]"
    console.print(f"memory of the leader over {report.memory['writes']:,} writes, MiB: {megabytes} ({verdict})")
