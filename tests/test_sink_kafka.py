"""Sinks of a change stream on a real Kafka."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from confluent_kafka import TopicPartition
from confluent_kafka.admin import AdminClient

from replicator.errors import ConfigError, LogDamage, LogTrimmed, ReplicatorError
from replicator.local.sinks import RunOptions, SinkFolder, reset_sink, run_sink
from replicator.log.kafka.security import PLAINTEXT
from replicator.log.kafka.topic import changes_topic
from replicator.protocol.log_state import LogState
from replicator.stream import topic_check
from replicator.stream.change import Change
from replicator.stream.envelope import key_of, needs_tombstone
from replicator.stream.kafka_access import KafkaAccess
from replicator.stream.management import StreamOptions, StreamStart, create, reset
from replicator.stream.publication import StreamMessage
from replicator.stream.settings import Progress
from replicator.stream.sinks.report import SinkReport, SinkState
from replicator.stream.sinks.runner import BatchLimits, ProcessControl
from replicator.stream.sinks.settings import SinkSettings, Target, TargetOptions
from replicator.stream.state_topic import StreamWriter
from tests.sink_database import Database
from tests.sink_fixture import Recorder, plain_changes
from tests.test_sink_files import read_lines

pytestmark = pytest.mark.kafka

OPTIONS = RunOptions(BatchLimits(), TargetOptions())
ROOT = Path(__file__).parents[1]


class PublishedStream:
    """A change stream that the test publishes."""

    def __init__(self, bootstrap: str, cluster: str, folder: SinkFolder) -> None:
        self.kafka = KafkaAccess(bootstrap, cluster, None, PLAINTEXT)
        self.folder = folder

    def create(self, partitions: int = 1) -> None:
        self._partitions = partitions
        settings = create(self.kafka, StreamOptions(partitions=partitions), StreamStart(Progress(LogState()))).settings
        self._format = settings.envelope_format()
        self._writer = StreamWriter(self.kafka)
        self._writer.open()

    def publish(self, changes: Sequence[Change]) -> None:
        messages = []
        for change in changes:
            key, partition = key_of(change, with_field=False), sum(change.row) % self._partitions
            messages.append(StreamMessage(self._format.encode_key(key), self._format.encode(change), partition))
            if needs_tombstone(change, key):
                messages.append(StreamMessage(self._format.encode_key(key), None, partition))
        self._writer.commit(messages)

    def run(self, target: str, name: str = "out") -> SinkReport:
        """Until it has caught up."""
        control = ProcessControl(lambda: False)
        reports = []

        def show(report: SinkReport) -> None:
            reports.append(report)
            control.stop_requested |= (
                report.state is SinkState.RUNNING and report.batches > 0 and report.lag_messages == 0
            )

        settings = SinkSettings(name, self.kafka.cluster, Target.parse(target))
        run_sink(self.folder, settings, self.kafka, OPTIONS, show, control)
        return reports[-1]


@pytest.fixture
def stream(kafka: str, kafka_cluster: str, tmp_path: Path) -> PublishedStream:
    return PublishedStream(kafka, kafka_cluster, SinkFolder(tmp_path))


def test_a_sink_writes_what_is_published_and_goes_on_later(stream: PublishedStream, tmp_path: Path) -> None:
    target, changes = f"jsonl:{tmp_path}/out.jsonl", plain_changes(300)
    stream.create()
    stream.publish(changes[:100])
    assert stream.run(target).written == 100
    stream.publish(changes[100:])
    report = stream.run(target)
    assert (report.written, report.lag_messages, report.state) == (200, 0, SinkState.STOPPED)
    assert read_lines(tmp_path / "out.jsonl") == changes


def test_a_sink_may_end_when_it_has_written_what_is_published(stream: PublishedStream, tmp_path: Path) -> None:
    stream.create()
    settings = SinkSettings("out", stream.kafka.cluster, Target.parse(f"jsonl:{tmp_path}/out.jsonl"))
    for published in (0, 30):
        stream.publish(plain_changes(published))
        run_sink(
            stream.folder,
            settings,
            stream.kafka,
            replace(OPTIONS, once=True),
            lambda report: None,
            ProcessControl(bool),
        )
    assert read_lines(tmp_path / "out.jsonl") == plain_changes(30)


def test_rows_of_several_partitions_in_postgresql(stream: PublishedStream, db: Database) -> None:
    recorder = Recorder()
    for number in range(50):
        recorder.run(f"SET key{number} 1")
        recorder.run(f"SET key{number} 2" if number % 3 else f"DEL key{number}")
    stream.create(partitions=3)
    stream.publish(recorder.changes)
    assert stream.run(f"postgres:{db.dsn}").written == 100
    assert db.strings() == recorder.state()


def test_a_sink_of_a_stream_that_was_reset_has_to_be_reset(stream: PublishedStream, tmp_path: Path) -> None:
    target, changes = f"jsonl:{tmp_path}/out.jsonl", plain_changes(3)
    with pytest.raises(ConfigError, match="has no change stream"):
        stream.run(target)
    stream.create()
    stream.publish(changes)
    stream.run(target)
    reset(stream.kafka)
    stream.create()
    stream.publish(changes)
    with pytest.raises(LogDamage, match=r"another change stream.*`replicator sink reset out`"):
        stream.run(target)
    assert stream.folder.load("out").report.state is SinkState.FAILED
    reset_sink(stream.folder, "out")
    (tmp_path / "out.jsonl").rename(tmp_path / "before.jsonl")
    assert stream.run(target).written == 3
    assert read_lines(tmp_path / "out.jsonl") == changes


@pytest.mark.parametrize("is_new", [True, False])
def test_a_stream_that_is_reset_while_it_is_read(
    stream: PublishedStream, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_new: bool
) -> None:
    monkeypatch.setattr(topic_check, "IDENTITY_CHECK_MS", 0)
    stream.create()
    stream.publish(plain_changes(3))
    control, has_reset = ProcessControl(lambda: False), False

    def show(report: SinkReport) -> None:
        nonlocal has_reset
        if report.written and not has_reset:
            has_reset = True
            reset(stream.kafka)
            if is_new:
                stream.create()
                stream.publish(plain_changes(9))

    settings = SinkSettings("out", stream.kafka.cluster, Target.parse(f"jsonl:{tmp_path}/out.jsonl"))
    with pytest.raises(ReplicatorError, match="`replicator sink reset out`" if is_new else "has no change stream"):
        run_sink(stream.folder, settings, stream.kafka, OPTIONS, show, control)
    assert len(read_lines(tmp_path / "out.jsonl")) == 3


def test_a_position_that_kafka_has_deleted(stream: PublishedStream, tmp_path: Path) -> None:
    stream.create()
    stream.publish(plain_changes(2))
    stream.run(f"jsonl:{tmp_path}/out.jsonl")
    stream.publish(plain_changes(5))
    admin = AdminClient({"bootstrap.servers": stream.kafka.bootstrap})
    [deleted] = admin.delete_records([TopicPartition(changes_topic(stream.kafka.cluster), 0, 6)]).values()
    deleted.result(30)
    with pytest.raises(LogTrimmed, match=r"earliest one is at offset 6.*`replicator sink reset out`"):
        stream.run(f"jsonl:{tmp_path}/out.jsonl")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_command_ends_when_it_is_asked_to(stream: PublishedStream, tmp_path: Path, number: signal.Signals) -> None:
    stream.create()
    stream.publish(plain_changes(20))
    line = [sys.executable, "-m", "replicator", "sink", "run", "out", f"jsonl:{tmp_path}/out.jsonl"]
    line += ["--dir", str(tmp_path), "--bootstrap", stream.kafka.bootstrap, "--cluster", stream.kafka.cluster]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, cwd=tmp_path
    ) as process:
        assert process.stdout is not None and process.stderr is not None
        assert process.stdout.readline() == f"sink out writes to jsonl:{tmp_path}/out.jsonl\n"
        assert process.stdout.readline() == "caught up after 20 changes\n"
        process.send_signal(number)
        assert (process.stdout.read(), process.stderr.read()) == ("stopped after 20 changes\n", "")
        assert process.wait(30) == 0
    assert read_lines(tmp_path / "out.jsonl") == plain_changes(20)
