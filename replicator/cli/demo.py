"""`replicator demo`: the whole story on real data, in a minute, leaving nothing behind."""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import redis
import typer
from rich.progress import MofNCompleteColumn, TextColumn

from replicator.cli import cluster, node, options, replica, snapshot
from replicator.cli.output import console, progress
from replicator.cli.status import summarise, table
from replicator.errors import ConfigError, ReplicatorError
from replicator.local.admin_client import ClusterClient, find_cluster
from replicator.local.folder import ClusterFolder, check_free

PIPELINE = 500
PORTS = range(17001, 18000, 10)
CATCH_UP_S = 60
POLL_S = 0.05

Airports = dict[str, dict[str, str]]


def demo(
    nodes: Annotated[int, typer.Option(min=2, max=5, help="How many nodes to begin with.")] = 3,
    bootstrap: Annotated[
        str | None, typer.Option(metavar="HOST:PORT", help="A Kafka that runs; otherwise one is started.")
    ] = None,
    keep: Annotated[Path | None, typer.Option(help="Use this folder, and leave the cluster running in it.")] = None,
) -> None:
    """Load 28,000 airports, change them, add a replica from a snapshot, kill another, and compare all of them.

    Example: replicator demo
    """
    airports = _load_airports()
    dir = keep or Path(tempfile.mkdtemp(prefix="replicator-demo-"))
    try:
        _tell_story(dir, airports, nodes, bootstrap)
    finally:
        if keep is None and ClusterFolder(dir).exists():
            console.rule("and away with it")
            cluster.down(dir, purge=True)
        if keep is None:
            shutil.rmtree(dir, ignore_errors=True)


def _load_airports() -> Airports:
    try:
        import airportsdata
    except ImportError:
        raise ConfigError('the demo\'s data is missing: `pip install "replicator[demo]"`') from None
    return {code: {name: str(value) for name, value in it.items()} for code, it in airportsdata.load("ICAO").items()}


def _tell_story(dir: Path, airports: Airports, nodes: int, bootstrap: str | None) -> None:
    console.rule(f"a cluster of {nodes} nodes")
    cluster.up(nodes, dir, bootstrap, free_ports(nodes + 1), f"demo-{os.getpid()}")
    folder, client = ClusterFolder(dir), find_cluster(dir, None, options.environment_password())
    ports = {entry.id: entry.resp_port for entry in folder.load().nodes}
    with redis.Redis(port=ports["n1"]) as leader:
        console.rule(f"{len(airports)} airports as hashes")
        loaded = _write(client, leader, "load", list(airports.items()))
        console.rule("every airport gets a visit")
        visits = {code: {"visits": "1", "name": it["name"].upper()} for code, it in airports.items()}
        updated = _write(client, leader, "update", list(visits.items()))

        console.rule("a snapshot, and a replica that begins with it")
        snapshot.take(dir, None, None, "", False)
        _write(client, leader, "more visits", [(code, {"visits": "2"}) for code in itertools.islice(airports, 5000)])
        new = f"n{nodes + 1}"
        replica.add(new, dir, from_snapshot=True, name=None)
        console.print(_resumed_at(folder, new))

        console.rule("SIGKILL for a follower, which comes back")
        mark = folder.process("n2")
        assert mark is not None
        os.kill(mark.pid, signal.SIGKILL)
        _write(client, leader, "meanwhile", [(code, {"visits": "3"}) for code in itertools.islice(airports, 5000)])
        node.start("n2", dir)

        console.rule("are they equal?")
        summary = _wait_level(client)
        expected = _expected(airports)
        ports = {entry.id: entry.resp_port for entry in folder.load().nodes}
        for id, port in ports.items():
            _compare(id, port, expected)
        digests = {it["digest"] for it in summary["nodes"]}
        if len(digests) != 1:
            raise ReplicatorError(f"the digests differ: {digests}")
        console.print(table(client))
        fields = sum(map(len, expected.values()))
        console.print(
            f"[bold green]All {len(ports)} replicas are equal[/]: digest {digests.pop()} on each, and "
            f"{fields} fields of {len(expected)} airports read back from each one are as written."
        )
        console.print(f"Loaded {loaded:,.0f} and updated {updated:,.0f} airports a second.")


def _write(client: ClusterClient, leader: Any, what: str, rows: list[tuple[str, dict[str, str]]]) -> float:
    """Write hashes with pipelines, showing rate and lag; hashes a second."""
    began = time.monotonic()
    with progress(MofNCompleteColumn(), TextColumn("{task.fields[seen]}")) as bars:
        task = bars.add_task(what, total=len(rows), seen="")
        for count, batch in enumerate(_batches(rows)):
            with leader.pipeline(transaction=False) as pipe:
                for code, fields in batch:
                    pipe.hset(f"airport:{code}", mapping=fields)
                pipe.execute()
            rate = (count + 1) * PIPELINE / (time.monotonic() - began)
            seen = f"{rate:,.0f}/s"
            if count % 10 == 0:
                lag = max((it["lag_records"] or 0 for it in summarise(client)["nodes"]), default=0)
                seen += f", lag {lag} records"
            bars.update(task, advance=len(batch), seen=seen)
    rate = len(rows) / (time.monotonic() - began)
    console.print(f"{what}: {len(rows)} hashes, {rate:,.0f} a second")
    return rate


def _batches(rows: list[tuple[str, dict[str, str]]]) -> Iterator[list[tuple[str, dict[str, str]]]]:
    for start in range(0, len(rows), PIPELINE):
        yield rows[start : start + PIPELINE]


def _resumed_at(folder: ClusterFolder, id: str) -> str:
    lines = folder.log_file(id).read_text().splitlines()
    return next((line for line in lines if "reads the log from" in line), "")


def _wait_level(client: ClusterClient) -> dict[str, Any]:
    deadline = time.monotonic() + CATCH_UP_S
    while True:
        summary = summarise(client)
        offsets = {it["applied_offset"] for it in summary["nodes"]}
        if len(offsets) == 1 and None not in offsets:
            return summary
        if time.monotonic() > deadline:
            raise ReplicatorError(f"the replicas have not caught up after {CATCH_UP_S} s: {offsets}")
        time.sleep(POLL_S)


def _expected(airports: Airports) -> dict[str, dict[str, str]]:
    """What each airport must hold in the end."""
    return {
        code: {**it, "name": it["name"].upper(), "visits": "3" if index < 5000 else "1"}
        for index, (code, it) in enumerate(airports.items())
    }


def _compare(id: str, port: int, expected: Airports) -> None:
    """Read every field of every airport from one node. Raises `ReplicatorError` at the first that differs."""
    with redis.Redis(port=port, decode_responses=True) as client, progress(MofNCompleteColumn()) as bars:
        task = bars.add_task(f"read all from {id}", total=len(expected))
        if client.dbsize() != len(expected):
            raise ReplicatorError(f"{id} has {client.dbsize()} keys, not {len(expected)}")
        for batch in _batches(list(expected.items())):
            with client.pipeline(transaction=False) as pipe:
                for code, _ in batch:
                    pipe.hgetall(f"airport:{code}")
                for (code, fields), found in zip(batch, pipe.execute(), strict=True):
                    if found != fields:
                        raise ReplicatorError(f"{id} holds {found} for {code}, not {fields}")
            bars.update(task, advance=len(batch))


def free_ports(count: int) -> int:
    """A base port with room for `count` nodes."""
    for base in PORTS:
        try:
            for index in range(count):
                check_free(base + index)
                check_free(base + 1000 + index)
        except ConfigError:
            continue
        return base
    raise ConfigError(f"no free ports between {PORTS[0]} and {PORTS[-1]}")
