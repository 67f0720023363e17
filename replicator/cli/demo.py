"""`replicator demo`: a cluster with real data, in a minute; it deletes everything at the end."""

from __future__ import annotations

import itertools
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import TextColumn
from rich.text import Text

from replicator.address import Address
from replicator.cli import demo_divergence, options
from replicator.cli.output import ConsoleProgress, console, print_line, print_whole, progress_bars
from replicator.cli.snapshot import describe_snapshot
from replicator.cli.status import draw
from replicator.errors import ConfigError, ReplicatorError
from replicator.local.admin_client import ClusterAdmin, NodeUnreachable
from replicator.local.cluster import LocalCluster, Origin
from replicator.local.operations import take_snapshot
from replicator.local.ports import check_base_port, free_base_port
from replicator.local.process import kill
from replicator.local.resp_connection import RespConnection
from replicator.local.summary import summarise
from replicator.local.waiting import wait_caught_up

PIPELINE = 500
CATCH_UP_S = 60
REVISITED = 5000

Airports = dict[str, dict[str, str]]


app = typer.Typer()
app.command("divergence")(demo_divergence.divergence)


@app.callback(invoke_without_command=True)
def demo(
    context: typer.Context,
    nodes: Annotated[int, typer.Option(min=2, max=5, help="Number of nodes at the start.")] = 3,
    bootstrap: options.Bootstrap = None,
    base_port: Annotated[
        int | None,
        typer.Option(
            min=1, max=60000, help="n1's port for Redis clients, by default a free one; its HTTP port is 1000 higher."
        ),
    ] = None,
    keep: Annotated[Path | None, typer.Option(help="Use this folder, and keep the cluster running.")] = None,
) -> None:
    """Load 28,000 airports, change them, add a replica from a snapshot, kill another, and compare all replicas.

    Example: replicator demo
    """
    if context.invoked_subcommand is not None:
        return
    airports = _load_airports()
    if base_port is None:
        base_port = free_base_port(nodes + 1)
    else:
        check_base_port(base_port, nodes + 1)
    dir = keep or Path(tempfile.mkdtemp(prefix="replicator-demo-"))
    with ConsoleProgress() as progress:
        cluster = LocalCluster(dir, options.environment_password(), progress)
        try:
            console.rule(f"a cluster of {nodes} nodes")
            cluster.up(nodes, bootstrap=bootstrap, base_port=base_port, name=f"demo-{os.getpid()}")
            print_whole(*draw(summarise(cluster.admin)))
            _run(cluster, progress, airports, f"n{nodes + 1}")
        finally:
            if keep is None and cluster.folder.exists():
                console.rule("shutting down")
                cluster.down(purge=True)
            if keep is None:
                shutil.rmtree(dir, ignore_errors=True)


def _load_airports() -> Airports:
    try:
        import airportsdata
    except ImportError:
        raise ConfigError('the demo\'s data is missing: `pip install "replicator[demo]"`') from None
    return {code: {name: str(value) for name, value in it.items()} for code, it in airportsdata.load("ICAO").items()}


def _run(cluster: LocalCluster, progress: ConsoleProgress, airports: Airports, new: str) -> None:
    """`new`: the replica that is added. Raises `ReplicatorError` if the replicas differ."""
    admin = cluster.admin
    leader_id = summarise(admin).leader  # any node, on a machine where n1 is slow to start
    if leader_id is None:
        raise NodeUnreachable("the cluster has no leader now: see `replicator status`")
    follower_id = next(id for id in cluster.resp_ports if id != leader_id)
    with RespConnection(_address(cluster.resp_ports[leader_id]), cluster.password) as leader:
        console.rule(f"{len(airports)} airports as hashes")
        loaded = _write(admin, leader, "load", list(airports.items()))
        console.rule("an update of every airport")
        visits = {code: {"visits": "1", "name": it["name"].upper()} for code, it in airports.items()}
        updated = _write(admin, leader, "update", list(visits.items()))

        console.rule("a snapshot, and a new replica that starts from it")
        print_line(describe_snapshot(take_snapshot(admin, None, progress)))
        _write(admin, leader, "more updates", _visits(airports, "2"))
        entry = cluster.add_replica(new, origin=Origin.SNAPSHOT)
        print_line(f"{new} serves at {entry.resp}")

        console.rule("kill -9 of a follower, which is started again")
        kill(cluster.folder.running_process(follower_id))
        _write(admin, leader, "updates meanwhile", _visits(airports, "3"))
        cluster.start_node(follower_id)

    console.rule("do all replicas hold the same?")
    _check(cluster, _expected(airports))
    console.print(f"Loaded {loaded:,.0f} and updated {updated:,.0f} airports per second.")


def _visits(airports: Airports, visits: str) -> list[tuple[str, dict[str, str]]]:
    return [(code, {"visits": visits}) for code in itertools.islice(airports, REVISITED)]


def _expected(airports: Airports) -> Airports:
    """The final value of each airport."""
    return {
        code: {**it, "name": it["name"].upper(), "visits": "3" if index < REVISITED else "1"}
        for index, (code, it) in enumerate(airports.items())
    }


def _check(cluster: LocalCluster, expected: Airports) -> None:
    summary = wait_caught_up(cluster.admin, CATCH_UP_S)
    ports = cluster.resp_ports
    for id, port in ports.items():
        _compare(id, port, cluster.password, expected)
    digests = {node.digest for node in summary.nodes}
    if len(digests) != 1:
        raise ReplicatorError(f"the digests differ: {digests}")
    print_whole(*draw(summary))
    fields = sum(map(len, expected.values()))
    console.print(
        Text.assemble(
            (f"All {len(ports)} replicas are equal", "bold green"),
            f": digest {digests.pop()} on each, and each one returns the {fields} fields of {len(expected)} airports "
            "as written.",
        )
    )


def _compare(id: str, port: int, password: str, expected: Airports) -> None:
    """Read every field of every airport from one node. Raises `ReplicatorError` at the first that differs."""
    with RespConnection(_address(port), password) as connection, progress_bars() as bars:
        task = bars.add_task(f"read all from {id}", total=len(expected))
        if (keys := connection.execute("DBSIZE")) != len(expected):
            raise ReplicatorError(f"{id} has {keys} keys, not {len(expected)}")
        for batch in _batches(list(expected.items())):
            replies = connection.execute_all(("HGETALL", f"airport:{code}") for code, _ in batch)
            for (code, fields), reply in zip(batch, replies, strict=True):
                texts = [it.decode() for it in reply]
                found = dict(zip(texts[::2], texts[1::2], strict=True))
                if found != fields:
                    raise ReplicatorError(f"{id} holds {found} for {code}, not {fields}")
            bars.update(task, advance=len(batch))


def _write(admin: ClusterAdmin, leader: RespConnection, title: str, rows: list[tuple[str, dict[str, str]]]) -> float:
    """Write hashes in pipelines, and show rate and lag; returns hashes per second."""
    began = time.monotonic()
    with progress_bars(TextColumn("{task.fields[lag]}")) as bars:
        task = bars.add_task(title, total=len(rows), lag="")
        for number, batch in enumerate(_batches(rows)):
            leader.execute_all(
                ("HSET", f"airport:{code}", *itertools.chain.from_iterable(fields.items())) for code, fields in batch
            )
            bars.update(task, advance=len(batch))
            if number % 10 == 0:
                lag = max((node.lag_records or 0 for node in summarise(admin).nodes), default=0)
                bars.update(task, lag=f"lag {lag} records")
    per_s = len(rows) / (time.monotonic() - began)
    console.print(f"{title}: {len(rows)} hashes, {per_s:,.0f} per second")
    return per_s


def _address(port: int) -> Address:
    return Address("127.0.0.1", port)


def _batches(rows: list[tuple[str, dict[str, str]]]) -> Iterator[list[tuple[str, dict[str, str]]]]:
    for start in range(0, len(rows), PIPELINE):
        yield rows[start : start + PIPELINE]
