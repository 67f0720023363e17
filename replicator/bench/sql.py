"""SQL: what each way to replicate a statement takes, statements a second through the port, and in this process."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from replicator.address import Address
from replicator.bench.benchmark import machine_name
from replicator.bench.closed_loop import KEYS
from replicator.bench.cluster import benchmark_cluster
from replicator.bench.sql_engine import EngineRates, measure_engine
from replicator.bench.sql_port import SERVER, PortFigure, measure_port
from replicator.bench.sql_replication import Part, ReplicationFigure, execute, measure_parts, write_parts
from replicator.bench.sql_table import CREATE, fill_statements
from replicator.bench.subjects import fill
from replicator.garbage import collect_seldom
from replicator.local.progress import ProgressReporter
from replicator.local.resp_connection import RespConnection

MIN_SELECTS_PER_S, MIN_UPDATES_PER_S, MIN_FIELDS_PER_S = 60_000, 20_000, 1_000_000


@dataclass(frozen=True, slots=True)
class SqlPlan:
    statements: int = 10_000  # UPDATEs of one row that are replicated in each way
    rows: int = 1_000  # of a statement that changes many
    scanned: int = 100_000  # rows of the table that is scanned in this process
    seconds: float = 3.0  # of each load through the port
    rounds: int = 3  # of these


@dataclass(frozen=True, slots=True)
class SqlReport:
    """Its fields are those of the JSON."""

    machine: str
    rounds: int
    engine: EngineRates
    port: Sequence[PortFigure]
    no_postgres: str  # why it is not among them; empty: it is
    replication: Sequence[ReplicationFigure]

    @property
    def met(self) -> Mapping[str, bool]:
        pipelined = {it.what: it.pipelined_per_s or 0.0 for it in self.port if it.server == SERVER}
        return {
            f"at least {MIN_SELECTS_PER_S:,} SELECT/s in pipelines": pipelined["SELECT"] >= MIN_SELECTS_PER_S,
            f"at least {MIN_UPDATES_PER_S:,} UPDATE/s in pipelines": pipelined["UPDATE"] >= MIN_UPDATES_PER_S,
            f"at least {MIN_FIELDS_PER_S:,} fields/s scanned": self.engine.sum_fields_per_s >= MIN_FIELDS_PER_S,
        }


def measure_sql(plan: SqlPlan, *, bootstrap: str | None, password: str, progress: ProgressReporter) -> SqlReport:
    """A leader and a follower, and PostgreSQL if it is installed. Raises `ReplicatorError`."""
    progress.step(f"scanning {plan.scanned:,} rows in this process")
    collect_seldom()  # as in a node: the engine is measured in this process
    engine = measure_engine(plan.scanned)
    with benchmark_cluster(2, bootstrap=bootstrap, password=password, progress=progress) as cluster:
        port = cluster.resp_ports["n1"]
        parts: list[Part] = []
        with RespConnection(Address("127.0.0.1", port), password) as connection:
            progress.step(f"writing a table of {KEYS:,} rows")
            for statement in (CREATE, *fill_statements(KEYS)):
                execute(connection, [("REPL.SQL", statement)])
            parts += write_parts(cluster, connection, KEYS, plan.statements, plan.rows, progress)
        replication = measure_parts(cluster, parts, progress)
        progress.step(f"writing {KEYS:,} keys")
        fill(port, password)
        figures, no_postgres = measure_port(port, password, plan.seconds, plan.rounds, progress.step)
    return SqlReport(machine_name(), plan.rounds, engine, figures, no_postgres, replication)
