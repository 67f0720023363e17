"""Commands that refuse their arguments: exit code 2 for the form of an argument, 1 and one sentence otherwise."""

from __future__ import annotations

import json
import logging
import os
import shlex
import signal
import socket
import subprocess
import sys
from importlib.metadata import version
from io import StringIO
from pathlib import Path
from typing import NoReturn

import pytest
from rich.console import Console
from typer.testing import CliRunner

from replicator.address import Address
from replicator.cli import demo, node, output, replica, snapshot, status
from replicator.cli.main import app, main
from replicator.cli.output import ConsoleProgress, count
from replicator.errors import ConfigError, ReplicatorError
from replicator.local.admin_client import ClusterAdmin, NodeUnreachable
from replicator.local.cluster import LocalCluster, Origin
from replicator.local.folder import ClusterFolder, NodeEntry
from replicator.local.operations import policy_of
from replicator.local.ports import free_base_port
from replicator.local.status import MemberStatus, parse_status
from replicator.records.types import Mode, WriteMode
from replicator.testing.simulation import SimulationPlan

RUN = ("node", "run", "--id", "n1", "--cluster", "c", "--bootstrap", "kafka:9092", "--dir")


def test_an_unknown_log_level_is_refused_with_the_choices(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, [*RUN, str(tmp_path), "--log-level", "loud"], env={"COLUMNS": "200"})
    assert result.exit_code == 2
    assert "'loud' is none of debug, info, warning, error" in result.output


def test_an_unknown_mode_is_refused_with_the_modes() -> None:
    result = CliRunner().invoke(app, ["replica", "set-mode", "sync", "n2"], env={"COLUMNS": "200"})
    assert result.exit_code == 2
    assert "Invalid value for 'MODE': 'n2' is none of async, sync, snapshotter" in result.output


def test_an_unknown_timing_is_refused_with_the_known_ones(tmp_path: Path) -> None:
    config = tmp_path / "config.toml"
    config.write_text("[timing]\nleese_ms = 100\n")
    result = CliRunner().invoke(app, [*RUN, str(tmp_path), "--config", str(config)])
    assert isinstance(result.exception, ConfigError)
    known = "answer_ms, election_ms, follower_lease_ms, heartbeat_ms, jitter_ms, lease_ms"
    assert str(result.exception).startswith(f"unknown setting timing.leese_ms: the section has {known}")


def test_an_address_without_a_port_is_refused() -> None:
    result = CliRunner().invoke(app, ["status", "--connect", "127.0.0.1"], env={"COLUMNS": "200"})
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


BRACKETS = "[bold]x[/] :key:"  # what Rich could take for markup and an emoji


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> StringIO:
    """What a terminal of 80 columns is sent, by both consoles."""
    sent = StringIO()
    for name in ("console", "errors"):
        monkeypatch.setattr(getattr(output, name), "_file", sent)
    return sent


def test_values_with_brackets_are_printed_as_they_are(terminal: StringIO) -> None:
    table = output.plain_table("value")
    table.add_row(BRACKETS)
    output.print_whole(BRACKETS, table)
    output.print_line(BRACKETS)
    output.print_error("Error:", "bold red", BRACKETS)
    ConsoleProgress().done(BRACKETS)
    ConsoleProgress().notice(BRACKETS)
    output.console.print(table)
    output.console.print(BRACKETS)
    lines = [line.strip() for line in terminal.getvalue().splitlines()]
    assert lines.count(BRACKETS) == 7 and lines.count(f"Error: {BRACKETS}") == 1


def test_the_state_of_a_broker_names_a_folder_with_brackets(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["broker", "status", "--dir", str(tmp_path / BRACKETS)])
    assert str(tmp_path / BRACKETS) in result.output and result.exit_code == 3


def test_a_bar_shows_count_rate_and_the_remaining_time() -> None:
    now_s = 0.0
    bars = output.progress_bars()
    bars.get_time = lambda: now_s
    task, unknown = bars.add_task(BRACKETS, total=100), bars.add_task("unknown", total=None)
    for _ in range(2):
        now_s += 1
        bars.advance(task, 20)
        bars.advance(unknown, 20)
    console = Console(file=StringIO(), width=200, emoji=False)
    console.print(bars.make_tasks_table(bars.tasks))
    known, other = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert all(text in known for text in (BRACKETS, "40/100", "20/s", "ETA 00:03"))
    assert "ETA" not in other and "/" not in other


def replicator(*args: str, stdout: int = subprocess.PIPE) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "replicator", *args], stdout=stdout, stderr=subprocess.PIPE, text=True, timeout=60
    )


TOO_LONG = "x" * 300


@pytest.mark.parametrize(
    "args",
    [
        ("status", "--dir", "FILE"),
        ("node", "run", "--id", "n1", "--cluster", "c", "--bootstrap", "127.0.0.1:9", "--dir", "FILE/sub"),
        ("node", "run", "--id", "n1", "--cluster", "c", "--bootstrap", "127.0.0.1:9", "--dir", TOO_LONG),
        ("cluster", "up", "--dir", TOO_LONG, "--bootstrap", "127.0.0.1:9"),
        ("broker", "status", "--dir", "FILE"),
        ("broker", "stop", "--dir", TOO_LONG),
        ("broker", "start", "--dir", "/proc/x"),
        ("doctor", "--bootstrap", "127.0.0.1:9", "--cluster", "c", "--config", "FILE"),
    ],
    ids=" ".join,
)
def test_a_path_that_cannot_be_used_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], args: tuple[str, ...]
) -> None:
    file = tmp_path / "[bold]"
    file.write_text("x")
    monkeypatch.setattr(sys, "argv", ["replicator", *(arg.replace("FILE", str(file)) for arg in args)])
    with pytest.raises(SystemExit) as exited:
        main()
    assert exited.value.code == 1
    [message] = capsys.readouterr().err.splitlines()
    name = TOO_LONG if TOO_LONG in args else "/proc/x" if "/proc/x" in args else str(file)
    assert message.startswith("Error: ") and name in message


def test_a_file_of_results_is_checked_before_the_work(tmp_path: Path) -> None:
    for command in (("bench",), ("bench", "modes")):
        for file in (tmp_path, tmp_path / "missing" / "file"):
            result = CliRunner().invoke(app, [*command, "--out", str(file)], env={"COLUMNS": "300"})
            assert result.exit_code == 2 and "cannot be written" in result.output


@pytest.mark.parametrize("args", [("broker", "status", "--json"), ("broker", "status"), ("--help",), ("--version",)])
def test_a_reader_that_has_left_costs_no_message(tmp_path: Path, args: tuple[str, ...]) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    dir = ("--dir", str(tmp_path)) if args[0] == "broker" else ()
    ended = replicator(*args, *dir, stdout=writing)
    os.close(writing)
    assert (ended.returncode, ended.stderr) == (1, "")


@pytest.mark.parametrize("args", [("broker", "status", "--json"), ("broker", "status"), ("--help",), ("--version",)])
def test_an_output_that_cannot_be_written_is_one_sentence(tmp_path: Path, args: tuple[str, ...]) -> None:
    dir = ("--dir", str(tmp_path)) if args[0] == "broker" else ()
    with open("/dev/full", "wb") as full:
        ended = replicator(*args, *dir, stdout=full.fileno())
    message = "Error: the output cannot be written (No space left on device)\n"
    assert (ended.returncode, ended.stderr) == (1, message)


def test_a_name_that_is_not_text_is_printed(tmp_path: Path) -> None:
    ended = replicator("broker", "status", "--dir", os.fsdecode(os.fsencode(tmp_path) + b"/\xff"))
    assert ended.returncode == 3 and "\\udcff/data" in ended.stdout


def test_ctrl_c_ends_watching(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(seconds: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("replicator.cli.status.time.sleep", interrupt)
    monkeypatch.setattr(status, "find_cluster", lambda dir, connect, password: ClusterOfOne(2))
    result = CliRunner().invoke(app, ["status", "--watch"])
    assert result.exit_code == 0 and "n1" in result.output and "Aborted" not in result.output


@pytest.mark.parametrize("text", ["bogus", "quorum", "quorum:", "quorum:x", "named:", "", "all:1"])
def test_an_invalid_policy_is_refused_with_what_was_expected(text: str) -> None:
    with pytest.raises(ConfigError) as raised:
        policy_of(text, WriteMode.SYNC)
    assert str(raised.value) == f"invalid policy {text!r}: expected all, quorum:K or named:ID,…"


class Done(LocalCluster):
    """Does nothing, successfully."""

    def start_node(self, id: str) -> bool:
        self._progress.done("a line for people")
        return True

    def stop_node(self, id: str) -> bool:
        return False

    def remove_replica(self, id: str) -> bool:
        return True

    def add_replica(
        self,
        id: str,
        *,
        origin: Origin = Origin.LOG,
        snapshot_name: str | None = None,
        mode: Mode = Mode.ASYNC,
        upstream: str = "leader",
    ) -> NodeEntry:
        return NodeEntry(id, 7004, 8004, 3)


@pytest.mark.parametrize(
    ("command", "printed"),
    [
        ("node start n1", {"node": "n1", "started": True}),
        ("node stop n1", {"node": "n1", "stopped": False}),
        ("replica add n4", {"node": "n4", "mode": "async", "resp": "127.0.0.1:7004", "http": "127.0.0.1:8004"}),
        ("replica remove n1", {"node": "n1", "stopped": True}),
        ("replica set-mode n1 sync", {"node": "n1", "mode": "sync"}),
        ("replica promote n1", {"node": "n1", "epoch": 7}),
        ("broker stop --dir DIR", {"stopped": False}),
    ],
)
def test_results_as_json(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, command: str, printed: object) -> None:
    for module in (node, replica):
        monkeypatch.setattr(module, "LocalCluster", Done)
    monkeypatch.setattr(replica, "find_cluster", lambda dir, connect, password: ClusterOfOne(0))
    monkeypatch.setattr(replica, "set_member_mode", lambda admin, id, mode: None)
    monkeypatch.setattr(replica, "promote_replica", lambda admin, id, *, force: 7)
    args = [str(tmp_path / "none") if arg == "DIR" else arg for arg in command.split()]
    assert json.loads(CliRunner().invoke(app, [*args, "--json"]).stdout) == printed
    assert "{" not in CliRunner().invoke(app, args).stdout


def test_the_ports_of_the_demo_can_be_chosen(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    class Planned(LocalCluster):
        def up(self, nodes: int | None, **options: object) -> None:
            raise ConfigError(f"{nodes} nodes from {options['base_port']}")

    monkeypatch.setattr(demo, "LocalCluster", Planned)
    monkeypatch.setattr(demo, "_load_airports", dict)
    base_port = free_base_port(4)
    command = ["demo", "--keep", str(tmp_path / "kept"), "--base-port", str(base_port)]
    assert str(CliRunner().invoke(app, command).exception) == f"3 nodes from {base_port}"
    with socket.create_server(("127.0.0.1", base_port + 1003)):  # HTTP of the replica that is added
        assert f"port {base_port + 1003} is not available" in str(CliRunner().invoke(app, command).exception)


def test_ctrl_c_during_the_import_of_the_modules_prints_no_traceback() -> None:
    code = """
import os, signal, sys
class Interrupt:
    def find_spec(self, name, *rest):
        if name == "replicator.cli.main":
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Interrupt())
from replicator.__main__ import main
main()
"""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (ended.returncode, ended.stderr) == (-signal.SIGINT, "")


@pytest.mark.parametrize(
    ("has_folder", "arguments", "connects_to"),
    [
        (False, [], "127.0.0.1:1"),
        (True, [], None),
        (True, ["--connect", "127.0.0.1:2"], "127.0.0.1:2"),
    ],
)
def test_the_environment_of_a_node_names_one_where_there_is_no_folder_of_a_cluster(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, has_folder: bool, arguments: list[str], connects_to: str | None
) -> None:
    asked: list[Address | None] = []

    def find(dir: Path, connect: Address | None, password: str) -> NoReturn:
        asked.append(connect)
        raise ReplicatorError("not needed")

    monkeypatch.setattr("replicator.cli.status.find_cluster", find)
    monkeypatch.setattr(ClusterFolder, "exists", lambda folder: has_folder and folder.dir == tmp_path)
    CliRunner().invoke(app, ["status", *arguments, "--dir", str(tmp_path)], env={"REPLICATOR_CONNECT": "127.0.0.1:1"})
    assert asked == [connects_to and Address.parse(connects_to)]
