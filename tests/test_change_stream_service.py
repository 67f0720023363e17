"""How a node runs the process of its publisher: with processes that only report, and no Kafka."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from replicator.errors import BadRequest, BrokerUnavailable, ConfigError, Loading
from replicator.log.kafka.security import PLAINTEXT
from replicator.logging_setup import LogSettings
from replicator.node.change_stream import PublisherReport, PublisherState
from replicator.position import NodeId, Offset
from replicator.protocol.log_state import LogState
from replicator.store.snapshot import Manifest
from replicator.stream import service as service_module
from replicator.stream.management import StartFrom, StreamOptions
from replicator.stream.run_publisher import PublisherSettings
from replicator.stream.service import ChangeStreamService, NodeSource
from tests.memory_cluster import until

SETTINGS = PublisherSettings(
    "127.0.0.1:1", "c", NodeId("n1"), Path("snapshots"), Path("store"), PLAINTEXT, LogSettings()
)
PUBLISHING = PublisherReport(PublisherState.PUBLISHING, offset=7, changes=3)
FAILED = PublisherReport(PublisherState.FAILED, trouble="the topic was deleted")


def program(*reports: PublisherReport, then: str) -> list[str]:
    """A publisher that reads its settings, reports this, and goes on with a line of Python."""
    lines = b"".join(report.encode() for report in reports)
    code = f"import sys\nsys.stdin.readline()\nsys.stdout.buffer.write({lines!r})\nsys.stdout.flush()\n{then}"
    return [sys.executable, "-c", code]


STAYS, FAILS = "sys.stdin.read()", "sys.exit(1)"


class Topics:
    def __init__(self) -> None:
        self.exists = True
        self.answers = True

    async def id(self, topic: str) -> str | None:
        assert topic == "c.changes.state"
        if not self.answers:
            raise BrokerUnavailable("no answer")
        return "id" if self.exists else None


def source(state: LogState | None = None, start: int = 0) -> NodeSource:
    async def log_start() -> Offset:
        return Offset(start)

    async def take() -> Manifest:
        raise AssertionError("no snapshot is taken")

    return NodeSource(lambda: state or LogState(timeline=bytes(16)), log_start, take)


@asynccontextmanager
async def running(command: list[str], topics: Topics | None = None) -> AsyncIterator[ChangeStreamService]:
    service = ChangeStreamService(SETTINGS, source(), (topics or Topics()).id, command)
    task = asyncio.create_task(service.run())
    try:
        yield service
    finally:
        task.cancel()
        async with asyncio.timeout(2):
            await asyncio.gather(task, return_exceptions=True)


def reports(service: ChangeStreamService, report: PublisherReport) -> Callable[[], bool]:
    return lambda: service.report == report


async def test_the_report_of_the_publisher_is_known() -> None:
    async with running(program(PUBLISHING, then=STAYS)) as service:
        await until(reports(service, PUBLISHING))


async def test_a_publisher_that_stopped_reporting_does_not_publish() -> None:
    service = ChangeStreamService(SETTINGS, source(), Topics().id)
    service._note(PUBLISHING)
    assert service.report == PUBLISHING
    service._reported_s -= 60
    assert service.report.state is PublisherState.FAILED
    assert "it has not reported for 60 s" in service.report.trouble
    assert service.report.changes == PUBLISHING.changes


async def test_no_process_runs_without_a_stream() -> None:
    topics = Topics()
    topics.exists = False
    async with running(program(PUBLISHING, then=STAYS), topics) as service:
        assert service.report.state is PublisherState.DISABLED


async def test_no_process_is_started_while_kafka_does_not_answer() -> None:
    topics = Topics()
    async with running(program(PUBLISHING, then="sys.exit(0)"), topics) as service:
        await until(reports(service, PUBLISHING))
        topics.answers = False
        await until(lambda: service.report.trouble == "no answer")


async def test_a_failure_is_reported_and_the_process_started_again(tmp_path: Path) -> None:
    first = tmp_path / "first"
    second_time = f"import os; os.path.exists({str(first)!r}) and sys.stdin.read(); open({str(first)!r}, 'w'); {FAILS}"
    async with running(program(FAILED, then=second_time)) as service:
        await until(first.exists)
        await until(reports(service, FAILED))


async def test_a_process_that_ends_without_a_report_has_failed() -> None:
    async with running(program(PUBLISHING, then=FAILS)) as service:
        await until(lambda: service.report.state is PublisherState.FAILED)
        assert service.report.trouble == "its process ended with status 1"


async def test_a_process_that_ends_after_it_stopped_reporting_has_failed_for_that_reason(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(service_module, "REPORT_TIMEOUT_S", 0)
    async with running(program(PUBLISHING, then=FAILS)) as service:
        await until(lambda: service.report.trouble == "its process ended with status 1")


async def test_a_program_that_cannot_be_started_or_understood_does_not_end_the_node() -> None:
    nonsense = [sys.executable, "-c", "print('no report')"]
    for command in (["/no/such/program"], nonsense):
        async with running(command) as service:
            await until(lambda service=service: service.report.state is PublisherState.FAILED)  # type: ignore[misc]
            assert "its process cannot be used" in service.report.trouble


async def test_a_process_that_ignores_sigterm_is_killed() -> None:
    ignores = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); " + PUBLISHING_AGAIN + STAYS
    async with running(program(then=ignores)) as service:
        await until(reports(service, PUBLISHING))


PUBLISHING_AGAIN = f"sys.stdout.buffer.write({PUBLISHING.encode()!r}); sys.stdout.flush(); "


async def test_where_a_new_stream_starts() -> None:
    service = ChangeStreamService(SETTINGS, source(LogState(timeline=bytes(16), offset=Offset(9))), Topics().id)
    assert (await service._start(StartFrom.LATEST)).progress.state.offset == 9
    assert (await service._start(StartFrom.EARLIEST)).progress.state == LogState()
    trimmed = ChangeStreamService(SETTINGS, source(start=5), Topics().id)
    with pytest.raises(ConfigError, match="the log begins at offset 5"):
        await trimmed._start(StartFrom.EARLIEST)
    empty = ChangeStreamService(SETTINGS, source(LogState()), Topics().id)
    with pytest.raises(Loading, match="the log is empty"):
        await empty._start(StartFrom.LATEST)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"form": "json"}, "unknown option form"),
        ({"format": "xml"}, "invalid format 'xml': expected json, avro"),
        ({"start_from": 7}, "invalid start_from 7"),
        ({"partitions": 0}, "from 1 to 1000"),
        ({"partitions": True}, "a number"),
        ({"compacted": "yes"}, "true or false"),
        ({"retention_ms": 10**18}, "a number from 1 to"),
        ({"registry": "http://r"}, "set the format to avro"),
        ({"registry": ""}, "invalid registry: expected the URL"),
        ({"registry": "user:secret@host", "format": "avro"}, "invalid registry: expected the URL"),
        ({"registry": "http://user:secret@[::1", "format": "avro"}, "invalid registry: expected the URL"),
        ({"registry": 7, "format": "avro"}, "invalid registry: expected the URL"),
        ({"compacted": True, "retention_ms": 1}, "leave out the retention"),
    ],
)
def test_invalid_options(fields: dict[str, object], message: str) -> None:
    with pytest.raises((BadRequest, ConfigError), match=message):
        StreamOptions.parse(fields)


def test_settings_pass_to_the_process() -> None:
    assert PublisherSettings.decode(SETTINGS.encode()) == SETTINGS
