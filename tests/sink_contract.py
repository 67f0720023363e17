"""The contract of every sink. A test module subclasses it with a fixture `target`."""

from __future__ import annotations

from typing import Protocol

import pytest

from replicator.stream.sinks.port import Sink
from tests.sink_fixture import Recorder, position

BINARY = bytes(range(256)) * 2048
"""512 KiB, which are not UTF-8."""


class SinkTarget(Protocol):
    def sink(self) -> Sink:
        """Another one for the same target; the one before is closed."""
        ...

    def strings(self) -> dict[bytes, bytes]:
        """The state that the changes in the target lead to."""
        ...


class SinkContract:
    def test_a_new_sink_has_no_checkpoint(self, target: SinkTarget) -> None:
        sink = target.sink()
        assert sink.open() is None
        sink.close()
        assert target.strings() == {}

    def test_what_was_written_is_there_with_its_position(self, target: SinkTarget) -> None:
        recorder, sink = Recorder(), target.sink()
        recorder.run("SET a 1", "SET b 2")
        recorder.run("SET a 3")
        sink.open()
        sink.write(recorder.changes[:2], position(2))
        sink.write(recorder.changes[2:], position(3))
        sink.close()
        assert target.sink().open() == position(3)
        assert target.strings() == {b"a": b"3", b"b": b"2"}

    def test_it_goes_on_at_its_checkpoint(self, target: SinkTarget) -> None:
        recorder = Recorder()
        for number in range(4):
            recorder.run(f"SET key{number} {number}")
        for number in range(4):
            sink = target.sink()
            assert sink.open() == (position(number) if number else None)
            sink.write(recorder.changes[number : number + 1], position(number + 1))
            sink.close()
        assert target.strings() == {b"key%d" % number: b"%d" % number for number in range(4)}

    def test_several_changes_of_a_row_in_a_batch(self, target: SinkTarget) -> None:
        recorder, sink = Recorder(), target.sink()
        for command in ("SET a 1", "SET b 1", "DEL a", "SET a 2", "DEL b", "SET c 1", "SET c 2", "SET d 1", "DEL d"):
            recorder.run(command)
        sink.open()
        sink.write(recorder.changes, position(9))
        sink.close()
        assert target.strings() == {b"a": b"2", b"c": b"2"}

    def test_a_checkpoint_advances_without_changes(self, target: SinkTarget) -> None:
        recorder, sink = Recorder(), target.sink()
        recorder.run("SET a 1")
        sink.open()
        sink.write(recorder.changes, position(1))
        sink.write([], position(7))
        sink.close()
        assert target.sink().open() == position(7)

    def test_it_can_be_opened_again_without_being_closed(self, target: SinkTarget) -> None:
        recorder, sink = Recorder(), target.sink()
        recorder.run("SET a 1")
        recorder.run("SET a 2")
        sink.open()
        sink.write(recorder.changes[:1], position(1))
        assert sink.open() == position(1)
        sink.write(recorder.changes[1:], position(2))
        sink.close()
        assert target.strings() == {b"a": b"2"}

    def test_the_data_stays_when_the_checkpoint_is_deleted(self, target: SinkTarget) -> None:
        recorder, sink = Recorder(), target.sink()
        recorder.run("SET a 1")
        sink.open()
        sink.write(recorder.changes, position(1))
        sink.close()
        target.sink().delete_checkpoint()
        assert target.strings() == {b"a": b"1"}
        target.sink().delete_checkpoint()  # of a sink without a checkpoint

    @pytest.mark.parametrize("value", [BINARY, b"", b"\xff", b"nul\0", b"\\x00", "Köln\n".encode()], ids=len)
    def test_any_value(self, target: SinkTarget, value: bytes) -> None:
        recorder, sink = Recorder(), target.sink()
        recorder.run([b"SET", b"key", value], [b"SET", b"\xfe\0key", value])
        sink.open()
        sink.write(recorder.changes, position(2))
        sink.close()
        assert target.strings() == {b"key": value, b"\xfe\0key": value}
