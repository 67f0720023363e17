"""A sink that is killed again and again writes each change exactly once."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
from pathlib import Path

from replicator.local.sinks import SinkFolder
from replicator.stream.sinks.report import SinkState
from tests.sink_database import Database, state_of
from tests.sink_fixture import random_history
from tests.test_sink_files import read_lines, read_parquet

SEED, TRANSACTIONS = 11, 900
ROOT = Path(__file__).parents[1]


def run_and_kill(dir: Path, target: str, least_kills: int, per_run: int = 300) -> None:
    """Kill it after some changes, until it has written all of them."""
    draw, kills = random.Random(SEED), 0
    line = [sys.executable, "-m", "tests.sink_program", str(dir), target, str(SEED), str(TRANSACTIONS)]
    while True:
        enough = draw.randrange(per_run)
        with subprocess.Popen(line, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            for written in process.stdout:
                if int(written) > enough:
                    process.kill()
                    break
        if process.returncode == 0:
            assert kills >= least_kills
            return
        assert process.returncode == -signal.SIGKILL
        assert SinkFolder(dir).load("killed").report.state is SinkState.KILLED
        kills += 1


def test_lines_of_a_file(tmp_path: Path) -> None:
    run_and_kill(tmp_path, f"jsonl:{tmp_path}/changes.jsonl", least_kills=3)
    assert read_lines(tmp_path / "changes.jsonl") == random_history(SEED, TRANSACTIONS).changes


def test_rows_of_postgresql(tmp_path: Path, db: Database) -> None:
    run_and_kill(tmp_path, f"postgres:{db.dsn}", least_kills=3)
    assert state_of(db.query("SELECT key, value, fields FROM kv")) == random_history(SEED, TRANSACTIONS).state()


def test_files_of_parquet(tmp_path: Path) -> None:
    folder = tmp_path / "changes"
    run_and_kill(tmp_path, f"parquet:{folder}", least_kills=3, per_run=500)
    changes = random_history(SEED, TRANSACTIONS).changes
    found = [(it["offset"], it["index"], it["op"]) for it in read_parquet(folder)]
    assert found == [(it.source.offset, it.source.place, it.op.value) for it in changes]
    assert len(list(folder.glob("*.parquet"))) >= 3
