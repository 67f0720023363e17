"""`replicator stream tail`."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import fastavro
import pytest
import typer
from typer.testing import CliRunner, Result

from replicator.cli import stream_tail
from replicator.cli.main import app
from replicator.cli.stream_tail import describe, parse_start
from replicator.errors import BrokerUnavailable, ConfigError, LogTrimmed
from replicator.local.folder import ClusterFile, ClusterFolder
from replicator.position import Epoch, Offset, Seq
from replicator.store.rows import Image
from replicator.stream import Change, Op, Position, Source, Start, StreamEnd
from replicator.stream.envelope import StreamFormat, to_fields
from tests.stream_fixture import PublishedStream, PublishedStreams
from tests.test_envelope import with_columns
from tests.test_stream_reading import delete_before

ROOT = Path(__file__).parents[1]
NOW = datetime(2026, 1, 31, 12, tzinfo=UTC)
WRITTEN = datetime(2026, 1, 31, 12, 0, 0, 250_000)  # local
TIME = "2026-01-31 12:00:00.250"


def change(op: Op, before: Image | None, after: Image | None, row: bytes = b"k", field: bytes | None = None) -> Change:
    source = Source("shop", "00" * 16, Epoch(1), Offset(1520), Seq(1), 3, int(WRITTEN.timestamp() * 1e6))
    return Change(op, "kv", row, field, before, after, source, None)


def string(value: bytes, expires_at_ms: int | None = None) -> Image:
    return Image("string", value, expires_at_ms)


def shown(op: Op, before: Image | None, after: Image | None, **names: bytes) -> str:
    line = describe(change(op, before, after, **names), None).plain
    assert line.startswith(f"{TIME}  1520-3      ")
    return line.removeprefix(f"{TIME}  1520-3      ")


class TestLines:
    def test_each_op_has_a_word(self) -> None:
        assert shown(Op.CREATE, None, string(b"1")) == 'created  k                 "1"'
        assert shown(Op.UPDATE, string(b"1"), string(b"2")) == 'updated  k                 "1" → "2"'
        assert shown(Op.DELETE, string(b"2"), None) == 'deleted  k                 "2"'
        assert shown(Op.READ, None, string(b"2")) == 'read  k                 "2"'

    def test_hashes_and_fields(self) -> None:
        assert shown(Op.CREATE, None, Image("hash", None)) == "created  k                 (hash)"
        field = Image("field", b"Ada")
        assert shown(Op.CREATE, None, field, field=b"name") == 'created  k name            "Ada"'

    def test_an_expiry(self) -> None:
        expires_ms = int(WRITTEN.timestamp()) * 1000
        line = shown(Op.UPDATE, string(b"1"), string(b"1", expires_ms))
        assert line.endswith('"1" → "1" expires 2026-01-31 12:00:00')

    def test_bytes_that_a_terminal_would_obey_are_escaped(self) -> None:
        assert shown(Op.CREATE, None, string(b'\x1b[2J\n"\\\xff'), row=b"a\tb") == (
            'created  a\\tb              "\\x1b[2J\\n\\"\\\\\\xff"'
        )
        assert shown(Op.CREATE, None, string("schlüssel €".encode())).endswith('"schlüssel €"')

    def test_names_that_could_be_misread_are_in_quotes(self) -> None:
        assert shown(Op.CREATE, None, string(b""), row=b"a b", field=b"") == 'created  "a b" ""          ""'

    def test_the_whole_value_is_printed_to_a_file(self) -> None:
        value = b"x" * (512 << 10)
        assert value.decode() in shown(Op.CREATE, None, string(value))

    def test_a_row_of_a_sql_table(self) -> None:
        before = Image("row", None, None, {"id": 1, "name": "Ada", "x": 1.5})
        after = Image("row", None, None, {"id": 1, "name": 'A "B"', "x": None, "y": b"\xff\0"})
        of_sql = change(Op.UPDATE, before, after)._replace(table="users", row=b'{"id":1}')
        line = describe(of_sql, None).plain.removeprefix(f"{TIME}  1520-3      ")
        assert line == (
            'updated  users {"id":1}    id=1, name="Ada", x=1.5 → id=1, name="A \\"B\\"", x=NULL, y=x\'ff00\''
        )
        assert describe(of_sql, 60).cell_len == 60

    def test_a_terminal_shows_as_much_as_fits_of_both_values(self) -> None:
        old, new = string(b"a" * 999), string(b"b" * 999)
        line = describe(change(Op.UPDATE, old, new), 100)
        assert line.cell_len == 100
        assert line.plain.count("a") > 12 and line.plain.count("b") > 12
        assert line.plain.endswith("b…")
        short = describe(change(Op.UPDATE, old, string(b"b")), 100)
        assert short.cell_len == 100 and short.plain.endswith('a… → "b"')
        wide = describe(change(Op.CREATE, None, string(("字" * 99).encode())), 100)
        assert 99 <= wide.cell_len <= 100

    def test_a_narrow_terminal(self) -> None:
        assert describe(change(Op.UPDATE, string(b"a"), string(b"b")), 20).cell_len == 20

    def test_a_terminal_shows_no_date_of_today(self) -> None:
        today = datetime.now()
        now = change(Op.CREATE, None, string(b"1"))
        now = now._replace(source=now.source._replace(timestamp_us=int(today.timestamp() * 1e6)))
        assert describe(now, 100).plain.startswith(f"{today:%H:%M:%S}.")
        assert describe(now, None).plain.startswith(f"{today:%Y-%m-%d %H:%M:%S}.")
        assert describe(change(Op.CREATE, None, string(b"1")), 100).plain.startswith(TIME)


class TestFrom:
    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ("earliest", StreamEnd.EARLIEST),
            ("latest", StreamEnd.LATEST),
            ("1520", Position(Offset(1520), 0)),
            ("1520-3", Position(Offset(1520), 3)),
            ("10m", NOW - timedelta(minutes=10)),
            ("2h", NOW - timedelta(hours=2)),
            ("2026-01-31T12:00Z", NOW),
            ("2026-01-31T13:00+01:00", NOW),
            ("2026-01-31T12:00", datetime(2026, 1, 31, 12).astimezone()),
            ("2026-01-31 12:00:00", datetime(2026, 1, 31, 12).astimezone()),
            ("2026-01-31", datetime(2026, 1, 31).astimezone()),
        ],
    )
    def test_what_it_may_be(self, text: str, expected: Start) -> None:
        assert parse_start(text, now=NOW) == expected

    @pytest.mark.parametrize(
        "text", ["", "yesterday", "-1", "10 m", "2026-13-01", "1520-", "99999999d", "0001-01-01T00:00+14:00"]
    )
    def test_what_it_may_not_be(self, text: str) -> None:
        with pytest.raises(typer.BadParameter, match="expected earliest, latest, an offset of the log"):
            parse_start(text)

    def test_the_default(self) -> None:
        assert parse_start(None) is StreamEnd.EARLIEST
        assert parse_start(None, follow=True) is StreamEnd.LATEST


class Interrupted:
    """A stream of two changes, in a Kafka that does not answer before each of them."""

    def __init__(self) -> None:
        self._reads: list[list[Change] | Exception] = [
            BrokerUnavailable("Kafka does not answer"),
            [],
            BrokerUnavailable("it is still away"),
            [change(Op.CREATE, None, string(b"1"))],
            BrokerUnavailable("Kafka does not answer again"),
            [change(Op.CREATE, None, string(b"2"))],
        ]

    has_ended = property(lambda self: not self._reads)

    def lag(self) -> int:
        return len(self._reads)

    def read(self, limit: int, timeout_s: float) -> Sequence[Change]:
        found = self._reads.pop(0)
        if isinstance(found, Exception):
            raise found
        return found


def test_it_waits_for_kafka_and_says_so_once(capfd: pytest.CaptureFixture[str]) -> None:
    stream = Interrupted()
    read = list(stream_tail._read(stream, shows_progress=True))  # type: ignore[arg-type]
    assert [len(it) for it in read] == [0, 1, 1]
    warnings = ["Kafka does not answer", "Kafka does not answer again"]
    assert capfd.readouterr().err.splitlines() == [f"Warning: {it}: waiting for it" for it in warnings]


def test_an_invalid_limit_is_refused_before_kafka_is_asked() -> None:
    assert CliRunner().invoke(app, ["stream", "tail", "--limit", "0"]).exit_code == 2


def test_a_cluster_without_kafka_names_the_remedy(tmp_path: Path) -> None:
    ClusterFolder(tmp_path).save(ClusterFile("shop", "127.0.0.1:9", own_broker=True, base_port=7001))
    invoked = CliRunner().invoke(app, ["stream", "tail", "--dir", str(tmp_path)])
    assert isinstance(invoked.exception, BrokerUnavailable)
    assert f"`replicator cluster up --dir {tmp_path}` starts" in str(invoked.exception)


def test_bootstrap_needs_the_name_of_the_cluster_and_may_be_in_the_environment() -> None:
    invoked = CliRunner().invoke(app, ["stream", "tail", "--bootstrap", "127.0.0.1:9"])
    assert isinstance(invoked.exception, ConfigError)
    assert "give both --bootstrap and --cluster" in str(invoked.exception)
    invoked = CliRunner().invoke(
        app, ["stream", "tail", "--cluster", "shop"], env={"REPLICATOR_KAFKA_BOOTSTRAP": "127.0.0.1:9"}
    )
    assert str(invoked.exception).startswith("Kafka at 127.0.0.1:9 does not answer")


def test_avro_is_not_printed_to_a_terminal() -> None:
    parent, child = os.openpty()
    try:
        process = subprocess.run(
            [sys.executable, "-m", "replicator", "stream", "tail", "--format", "avro"],
            stdout=child,
            stderr=subprocess.PIPE,
            cwd=ROOT,
            timeout=60,
        )
    finally:
        os.close(parent)
        os.close(child)
    assert process.returncode == 2
    assert b"avro is not for a terminal" in process.stderr


def run(published: PublishedStream, *options: str) -> Result:
    place = ["--bootstrap", published.bootstrap, "--cluster", published.cluster]
    return CliRunner().invoke(app, ["stream", "tail", *place, *options])


def lines(published: PublishedStream, *options: str) -> list[str]:
    """Without the time."""
    invoked = run(published, *options)
    assert invoked.exit_code == 0, invoked.exception
    return [" ".join(line.split()[2:]) for line in invoked.stdout.splitlines()]


@pytest.mark.kafka
class TestKafka:
    def test_the_changes_as_lines(self, change_stream: PublishedStreams) -> None:
        published = change_stream()
        assert lines(published) == []
        published.publish("SET a 1", "HSET user:1 name Ada", "SET a 2", "DEL a")
        assert lines(published) == [
            '1-0 created a "1"',
            '2-0 created user:1 name "Ada"',
            "2-1 created user:1 (hash)",
            '3-0 updated a "1" → "2"',
            '4-0 deleted a "2"',
        ]
        assert lines(published, "--key", "user:*", "--limit", "1") == ['2-0 created user:1 name "Ada"']
        assert lines(published, "--from", "4", "--table", "kv") == ['4-0 deleted a "2"']
        assert lines(published, "--from", "latest") == []
        assert len(lines(published, "--from", "10m")) == 5
        unmatched = run(published, "--table", "user")
        assert unmatched.stdout == "" and unmatched.stderr == (
            "Note: none of the 5 changes matches. Their tables: kv\n"
        )

    def test_several_partitions_end_too(self, change_stream: PublishedStreams) -> None:
        published = change_stream(partitions=4, format=StreamFormat.AVRO)
        published.publish(*(f"SET k{number} 1" for number in range(10)))
        assert len(lines(published)) == 10
        assert lines(published, "--key", "k7") == ['8-0 created k7 "1"']

    @pytest.mark.parametrize("form", ["json", "avro"])
    def test_formats_for_programs(self, change_stream: PublishedStreams, form: str) -> None:
        published = change_stream(format=StreamFormat.AVRO if form == "json" else StreamFormat.JSON)
        published.publish("SET a 1", "SET a 2")
        with published.open(follow=False) as stream:
            expected = [to_fields(it) for it in stream]
        assert len(expected) == 2
        if form == "avro":
            expected = [with_columns(it) for it in expected]
        assert read(run(published, "--format", form).stdout_bytes, form) == expected
        assert read(run(published, "--format", form, "--key", "nothing").stdout_bytes, form) == []

    def test_deleted_changes(self, change_stream: PublishedStreams) -> None:
        published = change_stream()
        published.publish("SET a 1", "SET a 2")
        delete_before(published.kafka, 1)
        assert isinstance(error := run(published, "--from", "1").exception, LogTrimmed)
        assert "the earliest one is 2-0" in str(error) and "start from the earliest change" in str(error)
        assert lines(published, "--from", "earliest") == ['2-0 updated a "1" → "2"']

    def test_no_change_stream(self, kafka: str, kafka_cluster: str) -> None:
        invoked = CliRunner().invoke(app, ["stream", "tail", "--bootstrap", kafka, "--cluster", kafka_cluster])
        assert "`replicator stream enable` creates one" in str(invoked.exception)

    def test_following_until_ctrl_c(self, change_stream: PublishedStreams) -> None:
        published = change_stream()
        published.publish("SET a 1")
        with follow(published, "--from", "earliest") as process:
            assert process.stdout is not None
            assert b'"1"' in process.stdout.readline()
            published.publish("SET a 2")
            assert b'"1" \xe2\x86\x92 "2"' in process.stdout.readline()
            process.send_signal(signal.SIGINT)
            assert process.wait(30) == 0
            assert process.stderr is not None and process.stderr.read() == b""

    def test_it_ends_quietly_once_its_reader_has_ended(self, change_stream: PublishedStreams) -> None:
        published = change_stream()
        published.publish("SET a 1")
        with follow(published, "--from", "earliest") as process:
            assert process.stdout is not None and process.stderr is not None
            process.stdout.readline()
            process.stdout.close()  # and nothing more is published
            assert process.wait(30) == 0
            assert process.stderr.read() == b""

    def test_a_reader_that_ends_in_the_middle(self, change_stream: PublishedStreams) -> None:
        published = change_stream()
        published.publish(*(f"SET k{number} {'x' * 1000}" for number in range(500)))
        with follow(published, "--from", "earliest", "--format", "json") as process:
            assert process.stdout is not None and process.stderr is not None
            process.stdout.close()
            assert process.wait(30) == 0
            assert process.stderr.read() == b""


def follow(published: PublishedStream, *options: str) -> subprocess.Popen[bytes]:
    place = ["--bootstrap", published.bootstrap, "--cluster", published.cluster]
    line = [sys.executable, "-m", "replicator", "stream", "tail", "--follow", *place, *options]
    return subprocess.Popen(
        line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT, env={**os.environ, "PYTHONIOENCODING": "utf-8"}
    )


def read(printed: bytes, form: str) -> list[object]:
    if form == "json":
        return [json.loads(line) for line in printed.splitlines()]
    return list(fastavro.reader(io.BytesIO(printed)))
