"""Sinks that write files: JSON lines and Parquet."""

from __future__ import annotations

import json
import os
import random
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from replicator.errors import ConfigError
from replicator.stream.change import Change
from replicator.stream.json_envelope import JsonFormat
from replicator.stream.sinks.jsonl import JsonlSink
from replicator.stream.sinks.parquet import ParquetSink
from replicator.stream.sinks.port import SinkFailed
from replicator.stream.sinks.settings import FileLimits
from replicator.stream.text import from_text
from tests.sink_contract import SinkContract, SinkTarget
from tests.sink_fixture import Recorder, plain_changes, position, random_history


def read_lines(path: Path) -> list[Change]:
    return [JsonFormat().decode(line) for line in path.read_bytes().splitlines()]


def read_parquet(folder: Path) -> list[dict[str, object]]:
    return [row for path in sorted(folder.glob("*.parquet")) for row in pq.read_table(path).to_pylist()]


def strings_of(changes: list[Change]) -> dict[bytes, bytes]:
    found: dict[bytes, bytes] = {}
    for change in changes:
        if change.after is None:
            found.pop(change.row)
        elif change.after.value is not None:
            found[change.row] = change.after.value
    return found


@contextmanager
def full_disk(size_bytes: int) -> Iterator[None]:
    """Files cannot grow beyond this size."""
    before, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (before, hard))


@dataclass
class JsonlTarget:
    path: Path

    def sink(self) -> JsonlSink:
        return JsonlSink(self.path)

    def strings(self) -> dict[bytes, bytes]:
        return strings_of(read_lines(self.path))


@dataclass
class ParquetTarget:
    folder: Path

    def sink(self) -> ParquetSink:
        return ParquetSink(self.folder)

    def strings(self) -> dict[bytes, bytes]:
        found: dict[bytes, bytes] = {}
        for it in read_parquet(self.folder):
            row = from_text(str(it["row"]), bool(it["row_base64"]))
            if it["after_value"] is None:
                found.pop(row)
            else:
                found[row] = from_text(str(it["after_value"]), bool(it["after_value_base64"]))
        return found


class TestJsonlContract(SinkContract):
    @pytest.fixture
    def target(self, tmp_path: Path) -> SinkTarget:
        return JsonlTarget(tmp_path / "changes.jsonl")


class TestParquetContract(SinkContract):
    @pytest.fixture
    def target(self, tmp_path: Path) -> SinkTarget:
        return ParquetTarget(tmp_path / "changes")


class TestJsonl:
    def test_lines_are_the_envelopes_of_the_change_stream(self, tmp_path: Path) -> None:
        changes, path = random_history(1, 100).changes, tmp_path / "changes.jsonl"
        sink = JsonlSink(path)
        sink.open()
        sink.write(changes, position(len(changes)))
        sink.close()
        assert read_lines(path) == changes
        assert json.loads(path.read_text().splitlines()[0])["source"]["cluster"] == "shop"

    def test_what_is_behind_the_checkpoint_is_cut_off(self, tmp_path: Path) -> None:
        changes, path = plain_changes(3), tmp_path / "changes.jsonl"
        sink = JsonlSink(path)
        sink.open()
        sink.write(changes[:2], position(2))
        sink.close()
        with open(path, "ab") as out:
            out.write(b'{"before":null,"aft' * 1000)
        assert sink.open() == position(2)
        sink.write(changes[2:], position(3))
        sink.close()
        assert read_lines(path) == changes

    def test_a_full_disk_is_an_error_and_nothing_is_lost(self, tmp_path: Path) -> None:
        changes, path = plain_changes(100), tmp_path / "changes.jsonl"
        sink = JsonlSink(path)
        sink.open()
        sink.write(changes[:10], position(10))
        with (
            full_disk(path.stat().st_size + 500),
            pytest.raises(SinkFailed, match=r"cannot be written \(File too large\)"),
        ):
            sink.write(changes[10:], position(100))
        assert read_lines(path) == changes[:10]
        sink.close()
        assert sink.open() == position(10)
        sink.write(changes[10:], position(100))
        sink.close()
        assert read_lines(path) == changes

    def test_files_that_are_not_its_own_are_left_alone(self, tmp_path: Path) -> None:
        path = tmp_path / "changes.jsonl"
        path.write_text("precious\n")
        with pytest.raises(ConfigError, match="has lines, but no checkpoint"):
            JsonlSink(path).open()
        assert path.read_text() == "precious\n"

    def test_a_file_that_is_shorter_than_at_the_checkpoint(self, tmp_path: Path) -> None:
        path = tmp_path / "changes.jsonl"
        sink = JsonlSink(path)
        sink.open()
        sink.write(plain_changes(2), position(2))
        sink.close()
        os.truncate(path, 10)
        with pytest.raises(SinkFailed, match="has 10 bytes, and had"):
            sink.open()

    @pytest.mark.parametrize("content", [b"{}", b"\xff", b"[" * 100_000], ids=["fields", "bytes", "nesting"])
    def test_a_checkpoint_of_another_program(self, tmp_path: Path, content: bytes) -> None:
        (tmp_path / "a.jsonl.checkpoint").write_bytes(content)
        with pytest.raises(SinkFailed, match="is not the checkpoint of a sink"):
            JsonlSink(tmp_path / "a.jsonl").open()

    def test_paths_that_cannot_be_written(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match="No such file or directory"):
            JsonlSink(tmp_path / "missing" / "a.jsonl").open()
        with pytest.raises(ConfigError, match="Is a directory"):
            JsonlSink(tmp_path).open()
        with pytest.raises(ConfigError, match="is not a file"):
            JsonlSink(Path("/dev/null")).open()

    def test_a_second_process(self, tmp_path: Path) -> None:
        first, second = (JsonlSink(tmp_path / "a.jsonl") for _ in range(2))
        first.open()
        with pytest.raises(ConfigError, match="another process writes to"):
            second.open()
        first.close()
        assert second.open() is None
        second.close()


class TestParquet:
    def test_a_file_has_the_changes_with_their_sources(self, tmp_path: Path) -> None:
        changes = random_history(2, 60).changes
        sink = ParquetSink(tmp_path)
        sink.open()
        sink.write(changes, position(len(changes)))
        sink.close()
        rows = read_parquet(tmp_path)
        assert [(it["op"], it["offset"], it["index"]) for it in rows] == [
            (it.op.value, it.source.offset, it.source.place) for it in changes
        ]
        first, last = rows[0], changes[-1]
        assert (first["cluster"], first["epoch"], first["total_order"]) == ("shop", 1, 1)
        assert rows[-1]["transaction_id"] == last.transaction_id
        expiring = next(it for it in changes if it.after and it.after.expires_at_ms)
        row = next(it for it in rows if it["after_expires"] is not None)
        assert expiring.after is not None
        assert row["after_expires"].timestamp() * 1000 == expiring.after.expires_at_ms  # type: ignore[attr-defined]

    def test_a_file_is_closed_at_its_size(self, tmp_path: Path) -> None:
        changes = plain_changes(100)
        sink = ParquetSink(tmp_path, FileLimits(bytes=5_000))
        sink.open()
        for number, change in enumerate(changes, 1):
            sink.write([change], position(number))
        complete = len(read_parquet(tmp_path))
        assert len(list(tmp_path.glob("*.parquet"))) >= 2 and 40 < complete < 100
        sink.close()
        assert [it["offset"] for it in read_parquet(tmp_path)] == list(range(1, 101))

    def test_a_file_is_closed_at_its_age(self, tmp_path: Path) -> None:
        now_s = 50.0
        sink = ParquetSink(tmp_path, FileLimits(seconds=60), lambda: now_s)
        sink.open()
        sink.tick()
        sink.write(plain_changes(1), position(1))
        now_s = 109.0
        sink.tick()
        assert read_parquet(tmp_path) == []
        now_s = 110.0
        sink.tick()
        assert len(read_parquet(tmp_path)) == 1
        now_s = 500.0
        sink.tick()
        assert len(list(tmp_path.iterdir())) == 2  # the file and the lock: no empty ones
        sink.close()

    def test_an_unfinished_file_is_removed(self, tmp_path: Path) -> None:
        (tmp_path / "changes-0000000000.unfinished").write_bytes(b"PAR1")
        sink = ParquetSink(tmp_path)
        assert sink.open() is None
        sink.close()
        assert [it.name for it in tmp_path.iterdir()] == [".lock"]

    def test_after_a_reset_it_begins_again_in_further_files(self, tmp_path: Path) -> None:
        sink = ParquetSink(tmp_path)
        sink.open()
        sink.write(plain_changes(2), position(2))
        sink.close()
        sink.delete_checkpoint()
        assert sink.open() is None
        sink.write(plain_changes(3), position(3))
        sink.close()
        assert sink.open() == position(3)
        sink.close()
        assert [it["offset"] for it in read_parquet(tmp_path)] == [1, 2, 1, 2, 3]

    def test_a_full_disk_is_an_error_and_nothing_is_lost(self, tmp_path: Path) -> None:
        recorder, noise = Recorder(), random.Random(1)
        for number in range(40):
            recorder.run([b"SET", b"key:%d" % number, noise.randbytes(2000)])
        sink = ParquetSink(tmp_path, FileLimits(bytes=20_000))
        sink.open()
        sink.write(recorder.changes[:5], position(5))
        sink.close()
        sink.open()
        with full_disk(10_000), pytest.raises(SinkFailed, match="cannot be written"):
            sink.write(recorder.changes[5:], position(40))
        sink.close()
        assert sink.open() == position(5)
        sink.write(recorder.changes[5:], position(40))
        sink.close()
        assert [it["offset"] for it in read_parquet(tmp_path)] == list(range(1, 41))

    def test_files_of_other_programs(self, tmp_path: Path) -> None:
        for name, content in (("changes-0000000003", "table"), ("changes-0000000004", "bytes")):
            path, sink = tmp_path / f"{name}.parquet", ParquetSink(tmp_path)
            if content == "table":
                pq.write_table(pa.table({"a": [1]}), path)
            else:
                path.write_bytes(b"no parquet")
            with pytest.raises(SinkFailed, match=r"was not written by a sink|cannot be read"):
                sink.open()
            sink.close()

    def test_folders_that_cannot_be_written(self, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        with pytest.raises(ConfigError, match="cannot be written"):
            ParquetSink(tmp_path / "file").open()
        first = ParquetSink(tmp_path / "folder")
        first.open()
        with pytest.raises(ConfigError, match="another process writes to"):
            ParquetSink(tmp_path / "folder").open()
        first.close()


class TestSqlRows:
    @pytest.fixture
    def changes(self) -> list[Change]:
        recorder = Recorder()
        recorder.sql("CREATE TABLE t (id INTEGER PRIMARY KEY, a, b)", "INSERT INTO t VALUES (1, 'x', x'00ff')")
        recorder.sql("DELETE FROM t")
        return recorder.changes

    def test_jsonl_has_their_columns(self, tmp_path: Path, changes: list[Change]) -> None:
        sink = JsonlSink(tmp_path / "changes")
        sink.open()
        sink.write(changes, position(2))
        sink.close()
        created, deleted = (json.loads(line) for line in (tmp_path / "changes").read_text().splitlines())
        assert created["after"]["columns"] == deleted["before"]["columns"] == {"id": 1, "a": "x", "b": "AP8="}

    def test_parquet_has_their_columns_as_json(self, tmp_path: Path, changes: list[Change]) -> None:
        sink = ParquetSink(tmp_path)
        sink.open()
        sink.write(changes, position(2))
        sink.close()
        created, deleted = read_parquet(tmp_path)
        assert (created["table"], created["row"], created["after_type"]) == ("t", '{"id":1}', "row")
        assert created["after_columns"] == deleted["before_columns"] == '{"id":1,"a":"x","b":"AP8="}'
        assert created["after_columns_base64"] == ["b"]
        assert created["before_columns"] is created["before_columns_base64"] is None
