"""Commands that refuse their arguments: exit code 2 for the form of an argument, 1 and one sentence otherwise."""

from __future__ import annotations

from pathlib import Path

from typer.testing import CliRunner

from replicator.cli.main import app
from replicator.errors import ConfigError

RUN = ("node", "run", "--id", "n1", "--cluster", "c", "--bootstrap", "kafka:9092", "--dir")


def test_an_unknown_log_level_is_refused_with_the_choices(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, [*RUN, str(tmp_path), "--log-level", "loud"])
    assert result.exit_code == 2
    assert "'loud' is not one of" in result.output


def test_an_unknown_timing_is_refused_with_the_known_ones(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, [*RUN, str(tmp_path)], env={"REPLICATOR_TIMING_LEESE_MS": "100"})
    assert isinstance(result.exception, ConfigError)
    known = "answer_ms, election_ms, follower_lease_ms, heartbeat_ms, jitter_ms, lease_ms"
    assert str(result.exception).startswith(f"unknown setting timing.leese_ms: the section has {known}")
