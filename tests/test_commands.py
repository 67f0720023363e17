"""Commands that refuse their arguments: exit code 2 for the form of an argument, 1 and one sentence otherwise."""

from __future__ import annotations

import json
import logging
import shlex
from importlib.metadata import version
from pathlib import Path

import pytest
from typer.testing import CliRunner

from replicator.cli import snapshot, status
from replicator.cli.main import app
from replicator.cli.output import count
from replicator.errors import ConfigError
from replicator.local.admin_client import ClusterAdmin, NodeUnreachable
from replicator.local.status import MemberStatus, parse_status
from replicator.testing.simulation import SimulationPlan

RUN = ("node", "run", "--id", "n1", "--cluster", "c", "--bootstrap", "kafka:9092", "--dir")


def test_an_unknown_log_level_is_refused_with_the_choices(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, [*RUN, str(tmp_path), "--log-level", "loud"])
    assert result.exit_code == 2
    assert "'loud' is not one of" in result.output


def test_an_unknown_timing_is_refused_with_the_known_ones(tmp_path: Path) -> None:
    config = tmp_path / "config.toml"
    config.write_text("[timing]\nleese_ms = 100\n")
    result = CliRunner().invoke(app, [*RUN, str(tmp_path), "--config", str(config)])
    assert isinstance(result.exception, ConfigError)
    known = "answer_ms, election_ms, follower_lease_ms, heartbeat_ms, jitter_ms, lease_ms"
    assert str(result.exception).startswith(f"unknown setting timing.leese_ms: the section has {known}")


def test_an_address_without_a_port_is_refused() -> None:
    result = CliRunner().invoke(app, ["status", "--connect", "127.0.0.1"])
    assert result.exit_code == 2
    assert "invalid address '127.0.0.1'" in result.output


def test_an_unknown_fault_event_is_refused_with_the_known_ones() -> None:
    result = CliRunner().invoke(app, ["simulate", "--events", "pause,earthquake"], env={"COLUMNS": "200"})
    assert result.exit_code == 2
    assert "'earthquake' is not a kind of fault event" in result.output and "kill one" in result.output


def test_chosen_fault_events_are_simulated_and_named_in_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logging, "disable", lambda level: None)  # other tests of this process need it
    plan = SimulationPlan(1, 300, events=("kill one", "pause"))
    assert plan.command.endswith("--events 'kill one,pause'")
    result = CliRunner().invoke(app, [*shlex.split(plan.command)[1:], "--trace"])
    assert result.exit_code == 0
    assert "events=('kill one', 'pause')" in result.output


def test_the_version() -> None:
    result = CliRunner().invoke(app, ["--version"])
    assert (result.exit_code, result.output) == (0, f"replicator {version('replicator')}\n")


class ClusterOfOne(ClusterAdmin):
    """n1, which answers `statuses` a few times, and then no more."""

    def __init__(self, answers: int, state: str = "serving") -> None:
        super().__init__([], "")
        self._answers = answers
        self._state = state

    def statuses(self) -> list[MemberStatus]:
        if self._answers == 0:
            raise NodeUnreachable("no node of the cluster answers")
        self._answers -= 1
        member = {"node": "n1", "mode": "async", "resp": "h:1", "http": "h:2", "priority": 0}
        node = {"id": "n1", "state": self._state, "role": "leader", "leader": "n1", "lease_left_ms": 312.7}
        reply = parse_status({"cluster": "c", "node": node, "members": [member]})
        return [MemberStatus(reply.members[0], reply)]


def test_watching_as_json_prints_one_object_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(status, "REFRESH_S", 0)
    monkeypatch.setattr(status, "find_cluster", lambda dir, connect, password: ClusterOfOne(2))
    result = CliRunner().invoke(app, ["status", "--watch", "--json"])
    assert isinstance(result.exception, NodeUnreachable)
    summaries = [json.loads(line) for line in result.output.splitlines()]
    assert [(it["leader"], it["lease_left_ms"]) for it in summaries] == [("n1", 313), ("n1", 313)]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ((), "no node serves now: see `replicator status`"),
        (("--node", "n1"), "n1 does not serve now: see `replicator status`"),
        (("--node", "n9"), "n9 is not a member of this cluster: see `replicator status`"),
    ],
)
def test_a_snapshot_that_no_node_can_take(
    monkeypatch: pytest.MonkeyPatch, options: tuple[str, ...], message: str
) -> None:
    monkeypatch.setattr(snapshot, "find_cluster", lambda dir, connect, password: ClusterOfOne(1, "waiting"))
    result = CliRunner().invoke(app, ["snapshot", "take", *options])
    assert isinstance(result.exception, ConfigError)
    assert str(result.exception) == message


@pytest.mark.parametrize(("number", "text"), [(0, "0 entries"), (1, "1 entry"), (2, "2 entries")])
def test_counts(number: int, text: str) -> None:
    assert count(number, "entry", "entries") == text
