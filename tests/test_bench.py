"""The benchmark of modes: expectations, parsed and displayed figures, the load generator, and a short complete run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from io import StringIO
from pathlib import Path
from typing import Any

import hiredis
import msgpack
import pytest
from rich.console import Console

from replicator.bench import mode_rows
from replicator.bench.benchmark import compare_with_floors
from replicator.bench.closed_loop import (
    KEY,
    KEYS,
    NUMBER,
    TWO_NUMBERS,
    VALUE,
    RequestTemplate,
    Workload,
    percentile,
    run_load,
)
from replicator.bench.cpu import CpuMeter
from replicator.bench.mode_rows import AT_FOLLOWER, AT_LEADER, WRITES, ModeRow
from replicator.bench.postgres import parse_latencies_s, parse_rate
from replicator.bench.redis_benchmark import BenchmarkRun
from replicator.bench.rounds import BenchmarkFigure, medians, summarize
from replicator.bench.sql_engine import measure_engine
from replicator.cli.bench_modes import draw_expectations, draw_rows
from replicator.errors import ReplicatorError
from replicator.local.ports import random_free_port
from tests.redis_fixture import ServerThread

PGBENCH = """pgbench (15.6)
transaction type: upsert.sql
query mode: prepared
number of clients: 64
latency average = 5.887 ms
initial connection time = 98.104 ms
tps = 10870.954614 (without initial connection time)
"""


def writes(name: str, **values: Any) -> ModeRow:
    return ModeRow(WRITES, name, "", **values)


def test_the_output_of_pgbench_is_parsed() -> None:
    assert parse_rate(PGBENCH) == 10870.954614
    assert list(parse_latencies_s(["3 17 4553 0 1700000000 123456", "0 18 387 0 1700000000 123999"])) == [
        0.004553,
        0.000387,
    ]
    with pytest.raises(ReplicatorError, match="PostgreSQL 14"):
        parse_rate("tps = 12.5 (including connections establishing)")


def run_of(command: str, per_s: float, cpu_us: float) -> BenchmarkRun:
    return BenchmarkRun(command, "1 client", per_s, 640 / per_s, 1280 / per_s, {"leader": cpu_us})


def test_a_figure_is_the_median_of_its_rounds_with_the_lowest_and_the_highest_rate() -> None:
    sets = [run_of("SET", 64, 9), run_of("SET", 16, 7), run_of("SET", 32, 8)]
    gets = [run_of("GET", 64, 1), run_of("GET", 128, 3)]
    assert summarize([sets[0], gets[0], sets[1], gets[1], sets[2]]) == [
        BenchmarkFigure("SET", "1 client", 32, 16, 64, 20, 40, {"leader": 8}),
        BenchmarkFigure("GET", "1 client", 96, 64, 128, 7.5, 15, {"leader": 2}),
    ]
    assert medians([{"gets": 3.0}, {"gets": 1.0}, {"gets": 2.0}]) == {"gets": 2.0}


def test_cpu_time_is_counted_per_request() -> None:
    meter = CpuMeter({"own": os.getpid()})
    until_s = time.process_time() + 0.1
    while time.process_time() < until_s:
        pass
    assert 80_000 <= meter.used_us(1)["own"] == pytest.approx(10 * meter.used_us(10)["own"], rel=0.2)


def test_a_percentile_is_one_of_the_values() -> None:
    values = [number / 1000 for number in range(1, 101)]
    assert percentile(values, 0.5) == 51
    assert percentile(values, 0.99) == 100
    assert percentile([0.002], 0.99) == 2
    assert percentile([], 0.5) == 0


def test_a_request_is_filled_with_keys_and_values_of_16_bytes() -> None:
    filled = RequestTemplate([("SET", KEY, VALUE), ("WAIT", "1", "100%")]).fill()
    words = filled.decode().split("\r\n")
    assert words[:4] == ["*3", "$3", "SET", "$16"]
    assert words[4].startswith("key:") and len(words[4]) == 16
    assert words[5] == "$16" and len(words[6]) == 16 and words[6].isdecimal()
    assert words[7:] == ["*3", "$4", "WAIT", "$1", "1", "$4", "100%", ""]


def test_a_request_is_filled_with_numbers_in_messagepack() -> None:
    filled = RequestTemplate([("REPL.SQL", "SELECT '100%' WHERE a = ?", "PARAMS", NUMBER), ("x", TWO_NUMBERS)]).fill()
    reader = hiredis.Reader()
    reader.feed(filled)
    (_, statement, _, one), (_, two) = reader.gets(), reader.gets()
    assert statement == b"SELECT '100%' WHERE a = ?"
    numbers = [*msgpack.unpackb(one), *msgpack.unpackb(two)]
    assert len(numbers) == 3 and all(0 <= it < KEYS for it in numbers)


def test_expectations_compare_rows_of_the_same_run() -> None:
    rows = (
        writes(mode_rows.SYNC_1, per_s=20_000, p50_ms=2.0, single_p50_ms=1.4, pipelined_per_s=60_000),
        writes(mode_rows.REDIS_FSYNC, per_s=20_000, single_p50_ms=1.0, pipelined_per_s=100_000),
        writes(mode_rows.ASYNC_WAIT, single_p50_ms=1.8),
        writes(mode_rows.REDIS_WAIT, single_p50_ms=0.3),
        writes(mode_rows.POSTGRES, per_s=10_001),
        writes(mode_rows.INVALIDATE, p50_ms=2.6),
        writes(mode_rows.ASYNC, single_p50_ms=0.61),
        ModeRow(AT_FOLLOWER, mode_rows.LINEARIZABLE, "", per_s=39),
        ModeRow(AT_FOLLOWER, mode_rows.EVENTUAL, "", per_s=100),
        ModeRow(AT_LEADER, mode_rows.LINEARIZABLE, "", per_s=99),
    )
    assert [it.met for it in mode_rows.compare(rows)] == [True, True, False, True, False, False, True, False]


def test_a_row_is_the_median_of_its_rounds_and_has_their_errors() -> None:
    rounds = [
        writes(mode_rows.ASYNC, per_s=3.0, p50_ms=1.0, pipelined_per_s=9.0),
        writes(mode_rows.ASYNC, per_s=1.0, p50_ms=3.0, pipelined_per_s=7.0, trouble="1 bad reply"),
        writes(mode_rows.ASYNC, per_s=2.0, p50_ms=2.0, pipelined_per_s=8.0, trouble="1 bad reply"),
    ]
    assert mode_rows.median_row(rounds) == writes(
        mode_rows.ASYNC,
        per_s=2.0,
        p50_ms=2.0,
        pipelined_per_s=8.0,
        lowest_per_s=1.0,
        highest_per_s=3.0,
        trouble="1 bad reply",
    )
    assert mode_rows.median_row(rounds[:1]).single_p50_ms is None


def test_floors_are_ratios_to_raw_rates_and_to_redis_if_it_is_installed() -> None:
    raw = {"kafka_appends_per_s": 1_000.0, "lmdb_gets_per_s": 1_000_000.0}
    ours = [BenchmarkFigure("GET", "64 clients", per_s, per_s, per_s, 1, 1, {}) for per_s in (8_000.0,)]
    peer = [BenchmarkFigure("GET", "64 clients", per_s, per_s, per_s, 1, 1, {}) for per_s in (10_000.0,)]
    assert [(it.per, it.ratio, it.met) for it in compare_with_floors(raw, ours, peer, None)] == [
        ("gets", 0.008, False),
        ("Redis", 0.8, True),
    ]
    assert [it.per for it in compare_with_floors(raw, ours, [], None)] == ["gets"]


def test_rows_without_a_measurement_or_with_errors_are_neither_met_nor_missed() -> None:
    rows = (
        writes(mode_rows.SYNC_1, per_s=20_000, p50_ms=2.0),
        writes(mode_rows.REDIS_FSYNC, trouble="Redis is not installed"),
        writes(mode_rows.POSTGRES, per_s=0.0),
        writes(mode_rows.INVALIDATE, p50_ms=2.0, trouble="3 bad answers"),
    )
    compared = mode_rows.compare(rows)
    assert [it.met for it in compared] == [None] * 8
    assert [it.measured for it in compared] == [None] * 8


def test_the_table_shows_figures_and_errors() -> None:
    out = StringIO()
    console = Console(width=200, file=out)
    rows = (
        writes(mode_rows.ASYNC, per_s=12_345.6, p50_ms=1.234, p99_ms=5.6, single_p50_ms=0.5),
        writes(mode_rows.POSTGRES, trouble="PostgreSQL is not installed"),
    )
    console.print(draw_rows(rows, "here"))
    console.print(draw_expectations(mode_rows.compare(rows)))
    text = out.getvalue()
    for part in ("12,346", "1.23", "5.60", "0.50", "PostgreSQL is not installed", "not measured", "≤ 0.6", "met"):
        assert part in text


def test_the_driver_measures_a_server_of_ours(server: ServerThread) -> None:
    done = run_load(Workload(server.port, 4, 0.2, [("SET", KEY, VALUE)], [("REPL.READ", "eventual")]))
    assert done.per_s > 0 and 0 < done.p50_ms <= done.p99_ms and not done.trouble


def test_the_driver_reports_bad_replies_and_does_not_count_them(server: ServerThread) -> None:
    done = run_load(Workload(server.port, 2, 0.2, [("SET", KEY, VALUE), ("INCR", "x", "y")]))
    assert done.per_s == 0
    assert "wrong number of arguments" in done.trouble


def test_the_driver_reports_why_it_cannot_start(server: ServerThread) -> None:
    with pytest.raises(ReplicatorError, match="unknown read level"):
        run_load(Workload(server.port, 1, 0.2, [("GET", KEY)], [("REPL.READ", "nonsense")]))
    with pytest.raises(ReplicatorError, match="refused"):
        run_load(Workload(random_free_port(), 1, 0.2, [("GET", KEY)]))


@pytest.fixture
def temporary() -> Iterator[Path]:
    """A folder that PostgreSQL's user may enter, too."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


@pytest.mark.kafka
@pytest.mark.timeout(240)
def test_one_run_has_all_rows_and_leaves_nothing_behind(kafka: str, temporary: Path) -> None:
    out = temporary / "modes.json"
    line = [sys.executable, "-m", "replicator", "bench", "modes", "--seconds", "0.3", "--rounds", "1", "--json"]
    options = ["--bootstrap", kafka, "--out", str(out)]
    done = subprocess.run(
        [*line, *options], capture_output=True, text=True, timeout=200, env={**os.environ, "TMPDIR": str(temporary)}
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report == json.loads(out.read_text())
    rows = {(it["group"], it["name"]): it for it in report["rows"]}
    named = [
        mode_rows.ASYNC,
        mode_rows.ASYNC_WAIT,
        mode_rows.QUORUM,
        mode_rows.SYNC_1,
        mode_rows.SYNC_2,
        mode_rows.SUSPEND,
        mode_rows.INVALIDATE,
    ]
    peers = [mode_rows.REDIS_ALONE, mode_rows.REDIS_WAIT, mode_rows.REDIS_FSYNC, mode_rows.POSTGRES]
    assert [name for group, name in rows if group == WRITES] == named + peers
    levels = [mode_rows.EVENTUAL, "bounded 500", "session", mode_rows.LINEARIZABLE]
    local = [f"linearizable at a sync follower, {mode} mode" for mode in ("suspend", "invalidate")]
    assert [name for group, name in rows if group == AT_LEADER] == levels
    assert [name for group, name in rows if group == AT_FOLLOWER] == levels + local
    for (_, name), row in rows.items():
        if "not installed" not in row["trouble"]:
            assert not row["trouble"] and row["per_s"] > 0 and row["p50_ms"] <= row["p99_ms"], f"{name}: {row}"
    assert len(report["expectations"]) == 8
    assert [path.name for path in temporary.iterdir()] == [out.name]


@pytest.mark.kafka
@pytest.mark.timeout(240)
def test_followers_are_measured_in_few_and_in_many(temporary: Path) -> None:
    line = [sys.executable, "-m", "replicator", "bench", "followers", "--few", "1", "--many", "2"]
    options = ["--requests", "1000", "--rounds", "1", "--json"]
    done = subprocess.run(
        [*line, *options], capture_output=True, text=True, timeout=200, env={**os.environ, "TMPDIR": str(temporary)}
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    few, many = report["figures"]
    assert (few["load"], many["load"]) == ("1", "2")
    assert report["broker_ratio"] == many["cpu_us"]["Kafka"] / few["cpu_us"]["Kafka"]
    assert not list(temporary.iterdir())


def test_sql_without_a_server_is_measured_next_to_sqlite() -> None:
    rates = measure_engine(1_000, 300)
    assert rates.sum_fields_per_s == pytest.approx(5 * rates.sum_ratio * rates.iteration_per_s)
    assert rates.select_ratio == rates.selects_per_s / rates.sqlite_selects_per_s
    assert min(rates.fetch_fields_per_s, rates.updates_per_s, rates.sqlite_updates_per_s) > 0


@pytest.mark.kafka
@pytest.mark.timeout(300)
def test_sql_is_measured_in_each_way_to_replicate(temporary: Path) -> None:
    line = [sys.executable, "-m", "replicator", "bench", "sql", "--quick", "--json"]
    done = subprocess.run(
        line, capture_output=True, text=True, timeout=280, env={**os.environ, "TMPDIR": str(temporary)}
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    sizes = {(it["statement"], it["replication"]): it["bytes_per_statement"] for it in report["replication"]}
    many = [name for name, replication in sizes if replication == "row"][1]
    assert len(sizes) == 9
    assert sizes[many, "mixed"] == pytest.approx(sizes[many, "command"], rel=0.2)
    assert sizes[many, "command"] < sizes[many, "row"] / 10
    assert sizes["UPDATE of one row", "mixed"] == pytest.approx(sizes["UPDATE of one row", "row"], rel=0.2)
    assert all(it["rows_per_s"] == pytest.approx(it["rows"] * it["records_per_s"]) for it in report["replication"])
    loads = [it["what"] for it in report["port"] if it["server"] == "replicator"]
    assert loads == ["GET", "SET", "SELECT", "UPDATE", "INSERT"]
    assert all(it["per_s"] > 0 for it in report["port"]) and len(report["met"]) == 3
    assert not list(temporary.iterdir())


def test_more_followers_than_before_are_needed() -> None:
    line = [sys.executable, "-m", "replicator", "bench", "followers", "--few", "3", "--many", "2"]
    done = subprocess.run(line, capture_output=True, text=True)
    assert done.returncode == 2 and "larger than --few (3)" in done.stderr


@pytest.mark.kafka
@pytest.mark.timeout(240)
def test_followers_that_receive_from_each_other_are_measured(temporary: Path) -> None:
    line = [sys.executable, "-m", "replicator", "bench", "scaling", "--followers", "2"]
    options = ["--writes", "1000", "--behind", "60000", "--json"]
    done = subprocess.run(
        [*line, *options], capture_output=True, text=True, timeout=220, env={**os.environ, "TMPDIR": str(temporary)}
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    served = {(it["upstream"], it["followers"]): it["per_byte"] for it in report["egress"]}
    assert list(served) == [("auto", 1), ("auto", 2), ("gossip", 1), ("gossip", 2)]
    assert served["auto", 2] < 0.5 < served["gossip", 1] < 1.5 < served["gossip", 2] < 3
    assert [it["level"] for it in report["lag"]] == [1, 2, 3, 4]
    assert report["catch_up"]["per_s"] > 0 and len(report["met"]) == 5
    assert not list(temporary.iterdir())
