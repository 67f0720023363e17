"""The sinks of a cluster folder: their files, locks, commands and metrics."""

from __future__ import annotations

import json
import os
import urllib.request
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from replicator.address import Address
from replicator.cli.main import app
from replicator.errors import ConfigError
from replicator.local.ports import random_free_port
from replicator.local.process import identify
from replicator.local.sinks import (
    RunOptions,
    SinkFile,
    SinkFolder,
    check_unchanged,
    reset_sink,
    run_sink_on,
    settings_for_run,
)
from replicator.position import Offset
from replicator.stream.sinks.metrics import SinkMetrics, serve_metrics
from replicator.stream.sinks.port import SinkFailed
from replicator.stream.sinks.report import SinkReport, SinkState
from replicator.stream.sinks.runner import BatchLimits, ProcessControl
from replicator.stream.sinks.settings import SinkSettings, TableMap, Target, TargetOptions, parse_maps
from tests.sink_fixture import FakeStream, plain_changes, position

OPTIONS = RunOptions(BatchLimits(changes=4, wait_s=0), TargetOptions())


@pytest.fixture
def folder(tmp_path: Path) -> SinkFolder:
    return SinkFolder(tmp_path)


def settings(folder: SinkFolder, name: str = "out") -> SinkSettings:
    return SinkSettings(name, "shop", Target.parse(f"jsonl:{folder.dir.parent}/{name}.jsonl"))


def run(folder: SinkFolder, stream: FakeStream, name: str = "out", options: RunOptions = OPTIONS) -> list[SinkReport]:
    """Until it has caught up. Returns its reports."""
    control, reports = ProcessControl(lambda: folder.is_paused(name)), list[SinkReport]()

    def show(report: SinkReport) -> None:
        reports.append(report)
        control.stop_requested |= report.batches > 0 and report.lag_messages == 0

    run_sink_on(folder, settings(folder, name), stream.open, options, show, control)
    return reports


def offsets(path: Path) -> list[int]:
    return [json.loads(line)["source"]["offset"] for line in path.read_text().splitlines()]


class TestFiles:
    def test_a_sink_is_known_by_its_file(self, folder: SinkFolder) -> None:
        assert folder.names() == []
        run(folder, FakeStream(plain_changes(9)))
        assert folder.names() == ["out"]
        file = folder.load("out")
        assert file.settings == settings(folder) and file.has_begun and file.process == identify(os.getpid())
        assert (file.report.state, file.report.written, file.report.position) == (SinkState.STOPPED, 9, position(9))

    def test_it_goes_on_where_it_was(self, folder: SinkFolder, tmp_path: Path) -> None:
        stream = FakeStream(plain_changes(5))
        run(folder, stream)
        stream.changes += [it._replace(source=it.source._replace(offset=Offset(6))) for it in stream.changes[:1]]
        run(folder, stream)
        assert offsets(tmp_path / "out.jsonl") == [1, 2, 3, 4, 5, 6]

    def test_a_process_that_has_ended_without_a_report_was_killed(self, folder: SinkFolder) -> None:
        run(folder, FakeStream(plain_changes(1)))
        file = folder.load("out")
        folder.save(replace(file, report=replace(file.report, state=SinkState.RUNNING)))
        assert folder.load("out").report.state is SinkState.RUNNING
        assert file.process is not None
        other = replace(file.process, started="another boot/1")
        folder.save(
            replace(file, process=other, report=replace(file.report, state=SinkState.RUNNING, changes_per_s=9.0))
        )
        report = folder.load("out").report
        assert (report.state, report.changes_per_s) == (SinkState.KILLED, 0.0)

    def test_files_that_cannot_be_read(self, folder: SinkFolder) -> None:
        with pytest.raises(ConfigError, match=r"there is no sink out in .* \(none\)"):
            folder.load("out")
        folder.dir.mkdir()
        for content in ("", "[]", "{}", '{"settings": {}, "report": {"state": "x"}}'):
            (folder.dir / "out.json").write_text(content)
            with pytest.raises(ConfigError, match=r"out\.json cannot be read"):
                folder.load("out")

    def test_a_folder_that_cannot_be_written(self, tmp_path: Path) -> None:
        (tmp_path / "sinks").touch()
        with pytest.raises(ConfigError, match="choose another --dir"):
            run(SinkFolder(tmp_path), FakeStream([]))


class TestRunning:
    def test_a_second_process_is_refused(self, folder: SinkFolder) -> None:
        with folder.lock("out"), pytest.raises(ConfigError, match=rf"is running \(process {os.getpid()}\)"):
            run(folder, FakeStream([]))
        run(folder, FakeStream([]))

    def test_a_sink_keeps_its_target_until_it_is_reset(self, folder: SinkFolder) -> None:
        run(folder, FakeStream(plain_changes(1)))
        other = replace(settings(folder), target=Target.parse("jsonl:/elsewhere"))
        with pytest.raises(ConfigError, match=r"has begun with another target \(jsonl:.*replicator sink reset out"):
            check_unchanged(folder.load("out"), other)
        with pytest.raises(ConfigError, match="has begun with another target"):
            run_sink_on(folder, other, FakeStream([]).open, OPTIONS, lambda report: None, ProcessControl(bool))
        reset_sink(folder, "out")
        check_unchanged(folder.load("out"), other)

    def test_columns_alone_keep_the_map(self, folder: SinkFolder) -> None:
        folder.dir.mkdir()
        given = ("out", "shop", "postgres:dbname=shop")
        first = settings_for_run(folder, *given, ["a:*=as"], ["name,city"], None)
        folder.save(SinkFile(first, SinkReport(SinkState.STOPPED, None), has_begun=True, updated_ms=0))
        again = settings_for_run(folder, *given, [], ["name"], None)
        assert again.maps == (TableMap("a:*", "as", ("name",)),)
        with pytest.raises(ConfigError, match=r"another map \(--map a:\*=as --columns as=name,city\)"):
            check_unchanged(folder.load("out"), again)
        check_unchanged(folder.load("out"), settings_for_run(folder, *given, [], [], None))

    def test_a_sink_that_has_not_begun_may_change(self, folder: SinkFolder) -> None:
        (folder.dir.parent / "out.jsonl").write_text("of another program\n")
        with pytest.raises(ConfigError):
            run(folder, FakeStream([]))
        file = folder.load("out")
        assert (file.report.state, file.has_begun) == (SinkState.FAILED, False)
        assert "no checkpoint" in str(file.report.last_error)
        check_unchanged(file, replace(settings(folder), target=Target.parse("jsonl:/elsewhere")))

    def test_a_paused_sink_waits(self, folder: SinkFolder) -> None:
        run(folder, FakeStream([]))
        folder.set_paused("out", True)
        assert folder.is_paused("out")
        control, states = ProcessControl(lambda: folder.is_paused("out")), list[SinkState]()

        def show(report: SinkReport) -> None:
            states.append(report.state)
            if report.state is SinkState.PAUSED:
                folder.set_paused("out", False)
            control.stop_requested |= report.written > 0

        run_sink_on(folder, settings(folder), FakeStream(plain_changes(1)).open, OPTIONS, show, control)
        assert SinkState.PAUSED in states and states[-1] is SinkState.STOPPED

    def test_a_failure_is_in_the_file(self, folder: SinkFolder) -> None:
        run(folder, FakeStream(plain_changes(1)))
        os.truncate(folder.dir.parent / "out.jsonl", 1)
        with pytest.raises(SinkFailed):
            run(folder, FakeStream(plain_changes(2)))
        report = folder.load("out").report
        assert report.state is SinkState.FAILED and "has 1 bytes" in str(report.last_error)


class TestMetrics:
    def test_metrics_are_served(self, folder: SinkFolder) -> None:
        address, found = Address("127.0.0.1", random_free_port()), list[str]()
        stream = FakeStream(plain_changes(9))
        control = ProcessControl(lambda: False)

        def show(report: SinkReport) -> None:
            if report.batches == 2:
                with urllib.request.urlopen(address.url("/metrics"), timeout=10) as reply:
                    found.append(reply.read().decode())
                control.stop_requested = True

        run_sink_on(folder, settings(folder), stream.open, replace(OPTIONS, metrics=address), show, control)
        text = found[0]
        assert 'replicator_sink_changes_total{sink="out"} 8.0' in text
        assert 'replicator_sink_lag_changes{sink="out"} 1.0' in text
        assert 'replicator_sink_lag_seconds{sink="out"}' in text and 'replicator_sink_up{sink="out"} 1.0' in text
        assert 'replicator_sink_batch_seconds_count{sink="out"} 2.0' in text
        assert 'replicator_sink_failures_total{of="kafka",sink="out"} 0.0' in text
        with pytest.raises(OSError):
            urllib.request.urlopen(address.url("/metrics"), timeout=10)

    def test_an_address_that_is_in_use(self) -> None:
        address = Address("127.0.0.1", random_free_port())
        metrics = SinkMetrics("out", lambda: SinkReport(SinkState.RUNNING, None))
        stop = serve_metrics(address, metrics)
        with pytest.raises(ConfigError, match="metrics cannot be served"):
            serve_metrics(address, metrics)
        stop()


def invoke(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["sink", *arguments], env={"COLUMNS": "200"})


class TestCommands:
    def test_list_and_status(self, folder: SinkFolder, tmp_path: Path) -> None:
        run(folder, FakeStream(plain_changes(3)))
        dir = ("--dir", str(tmp_path))
        listed = invoke("list", *dir)
        assert listed.exit_code == 0 and "stopped" in listed.output and "out.jsonl" in listed.output
        shown = invoke("status", "out", *dir)
        assert shown.exit_code == 0 and "3 changes since it was started" in shown.output
        fields = json.loads(invoke("status", "out", "--json", *dir).output)
        assert fields["report"]["written"] == 3 and fields["paused"] is False
        assert fields["report"]["position"] == {"topic_id": "t1", "next_offsets": [3]}
        assert json.loads(invoke("list", "--json", *dir).output) == [fields]

    def test_the_status_of_a_failed_sink_has_exit_code_1(self, folder: SinkFolder, tmp_path: Path) -> None:
        folder.dir.mkdir()
        folder.save(SinkFile(settings(folder), SinkReport(SinkState.FAILED, None, last_error="no disk"), True))
        shown = invoke("status", "out", "--dir", str(tmp_path))
        assert shown.exit_code == 1 and "no disk" in shown.output

    def test_pause_resume_and_reset(self, folder: SinkFolder, tmp_path: Path) -> None:
        dir = ("--dir", str(tmp_path))
        run(folder, FakeStream(plain_changes(3)))
        assert invoke("pause", "out", *dir).output == "sink out pauses\n" and folder.is_paused("out")
        assert "to be paused" in invoke("status", "out", *dir).output
        assert invoke("resume", "out", *dir).exit_code == 0 and not folder.is_paused("out")
        assert invoke("reset", "out", *dir).exit_code == 0
        assert not folder.load("out").has_begun and not (tmp_path / "out.jsonl.checkpoint").exists()
        assert json.loads(invoke("reset", "out", "--delete", "--json", *dir).output) == {"sink": "out", "deleted": True}
        assert folder.names() == []

    def test_reset_is_refused_while_it_runs(self, folder: SinkFolder, tmp_path: Path) -> None:
        run(folder, FakeStream(plain_changes(3)))
        with folder.lock("out"):
            refused = invoke("reset", "out", "--dir", str(tmp_path))
        assert isinstance(refused.exception, ConfigError) and "stop it first" in str(refused.exception)
        assert folder.load("out").has_begun

    @pytest.mark.parametrize("command", ["status", "pause", "resume", "reset"])
    def test_an_unknown_sink(self, tmp_path: Path, command: str) -> None:
        refused = invoke(command, "missing", "--dir", str(tmp_path))
        assert isinstance(refused.exception, ConfigError) and "there is no sink missing" in str(refused.exception)

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["a"], "name its target"),
            (["a", "ftp:x"], "unknown target ftp"),
            (["../a", "jsonl:x"], "invalid name of a sink"),
            (["a", "jsonl:x", "--map", "a=b"], "leave out --map"),
            (["a", "jsonl:x", "--bootstrap", "kafka:1"], "give both --bootstrap and --cluster"),
        ],
    )
    def test_what_run_refuses(self, tmp_path: Path, arguments: list[str], message: str) -> None:
        kafka = [] if "--bootstrap" in arguments else ["--bootstrap", "127.0.0.1:1", "--cluster", "shop"]
        refused = invoke("run", *arguments, *kafka, "--dir", str(tmp_path))
        assert isinstance(refused.exception, ConfigError) and message in str(refused.exception)
        assert not (tmp_path / "sinks").exists()

    def test_maps_stay_as_they_were(self, folder: SinkFolder) -> None:
        target = Target.parse("postgres:dbname=a")
        known = SinkSettings("pg", "shop", target, parse_maps(["a*=t"], ["x"]))
        folder.dir.mkdir()
        folder.save(SinkFile(known, SinkReport(SinkState.STOPPED, None), True))
        for named in (None, "postgres:dbname=a"):
            assert settings_for_run(folder, "pg", "shop", named, [], [], None) == known
        assert settings_for_run(folder, "pg", "shop", "jsonl:/a", [], [], None).maps == parse_maps([], [])
