"""What copies the change stream to a sink: checkpoints, failures, pauses and reports."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import pytest

from replicator.errors import ConfigError, LogDamage, LogTrimmed
from replicator.stream.change import Change
from replicator.stream.position import StreamPosition
from replicator.stream.sinks.port import SinkFailed, SinkUnavailable
from replicator.stream.sinks.report import RateMeter, SinkReport, SinkState
from replicator.stream.sinks.runner import MAX_RETRY_S, RETRY_S, BatchLimits, ProcessControl, SinkRunner, size_bytes
from tests.sink_fixture import NO_KAFKA, FakeControl, FakeStream, caught_up, plain_changes, position

AWAY = SinkUnavailable("the target does not answer")


@dataclass
class MemorySink:
    """Exactly once, as long as `checkpoint` and `written` survive."""

    written: list[Change] = field(default_factory=list)
    batches: list[int] = field(default_factory=list)
    checkpoint: StreamPosition | None = None
    open_faults: list[Exception] = field(default_factory=list)
    faults: list[Exception | None] = field(default_factory=list)  # of the next writes; None: it succeeds
    fault_after_write: bool = False  # the outcome of a write that fails is that it was done
    opened: int = 0
    closed: int = 0
    ticks: int = 0

    def open(self) -> StreamPosition | None:
        self.opened += 1
        if self.open_faults:
            raise self.open_faults.pop(0)
        return self.checkpoint

    def write(self, changes: Sequence[Change], position: StreamPosition) -> None:
        fault = self.faults.pop(0) if self.faults else None
        if fault is None or self.fault_after_write:
            self.written += changes
            self.batches.append(len(changes))
            self.checkpoint = position
        if fault is not None:
            raise fault

    def tick(self) -> None:
        self.ticks += 1

    def delete_checkpoint(self) -> None:
        self.checkpoint = None

    def close(self) -> None:
        self.closed += 1


def run(
    stream: FakeStream,
    sink: MemorySink,
    until: Callable[[SinkReport], bool] = caught_up,
    limits: BatchLimits | None = None,
    control: FakeControl | None = None,
) -> FakeControl:
    control = control or FakeControl(until)
    SinkRunner("orders", sink, stream.open, control, control.report, limits).run()
    return control


class TestCopying:
    def test_a_new_sink_gets_all_changes_in_order(self) -> None:
        stream, sink = FakeStream(plain_changes(100)), MemorySink()
        control = run(stream, sink, limits=BatchLimits(changes=30))
        assert sink.written == stream.changes
        assert sink.batches == [30, 30, 30, 10]
        assert sink.checkpoint == position(100)
        assert control.reports[-1].state is SinkState.STOPPED and control.reports[-1].written == 100

    def test_it_goes_on_at_the_checkpoint(self) -> None:
        stream, sink = FakeStream(plain_changes(10)), MemorySink(checkpoint=position(7))
        run(stream, sink)
        assert stream.opened_at == [position(7)]
        assert sink.written == stream.changes[7:]

    def test_a_batch_is_limited_in_bytes(self) -> None:
        changes = plain_changes(20)
        stream, sink = FakeStream(changes), MemorySink()
        limits = BatchLimits(changes=5, bytes=size_bytes(changes[:2]), wait_s=10)
        run(stream, sink, limits=limits)
        assert sink.batches == [5, 5, 5, 5]

    def test_the_position_of_an_empty_stream_is_stored(self) -> None:
        sink = MemorySink()
        run(FakeStream([]), sink)
        assert (sink.checkpoint, sink.batches) == (position(0), [0])

    def test_it_stops_between_two_batches(self) -> None:
        stream, sink = FakeStream(plain_changes(10)), MemorySink()
        run(stream, sink, until=lambda report: report.written > 0, limits=BatchLimits(changes=4))
        assert (sink.batches, sink.checkpoint, sink.closed) == ([4], position(4), 1)

    def test_a_reset_stream_is_an_error_that_names_the_remedy(self) -> None:
        stream, sink = FakeStream(plain_changes(3), topic_id="t2"), MemorySink(checkpoint=position(2))
        control = FakeControl(caught_up)
        with pytest.raises(LogDamage, match="it was reset since: `replicator sink reset orders`"):
            run(stream, sink, control=control)
        assert control.reports[-1].state is SinkState.FAILED
        assert "reset" in str(control.reports[-1].last_error) and sink.closed == 1

    def test_a_message_of_another_program_is_an_error_also_if_it_is_the_first_one(self) -> None:
        stream = FakeStream(plain_changes(3), faults=[LogDamage("the message at offset 0 is not a change")] * 3)
        with pytest.raises(LogDamage, match="is not a change"):
            run(stream, MemorySink())
        assert stream.opened_at == [None, None]


class TestFailures:
    def test_a_target_that_is_away_at_the_start(self) -> None:
        stream, sink = FakeStream(plain_changes(5)), MemorySink(open_faults=[AWAY, AWAY])
        control = run(stream, sink)
        assert sink.written == stream.changes and sink.opened == 3
        assert control.waited == pytest.approx([RETRY_S, 2 * RETRY_S], abs=0.01)
        assert control.reports[-1].target_failures == 2

    def test_a_target_that_is_away_in_the_middle_gets_the_batch_again(self) -> None:
        stream, sink = FakeStream(plain_changes(9)), MemorySink(faults=[None, AWAY, AWAY])
        control = run(stream, sink, limits=BatchLimits(changes=3))
        assert sink.written == stream.changes and sink.batches == [3, 3, 3]
        assert len(stream.opened_at) == 1, "what was read is kept"
        retrying = [it for it in control.reports if it.state is SinkState.RETRYING]
        assert retrying[-1].last_error == str(AWAY) and retrying[-1].target_failures == 2

    def test_a_write_that_was_done_although_it_failed_is_not_repeated(self) -> None:
        stream, sink = FakeStream(plain_changes(9)), MemorySink(faults=[AWAY], fault_after_write=True)
        run(stream, sink, limits=BatchLimits(changes=3))
        assert sink.written == stream.changes

    def test_a_target_that_has_lost_its_latest_changes_gets_them_again(self) -> None:
        stream, sink = FakeStream(plain_changes(9)), MemorySink()

        start, end = position(3), position(9)

        def restore(changes: Sequence[Change], position: StreamPosition) -> None:
            if position == end and not restored:
                restored.append(True)
                sink.checkpoint = start
                del sink.written[3:]
                raise SinkUnavailable("the server was restored from a backup")
            genuine(changes, position)

        restored: list[bool] = []
        genuine = sink.write
        sink.write = restore  # type: ignore[method-assign]
        run(stream, sink, limits=BatchLimits(changes=3), until=lambda report: report.written >= 12)
        assert restored and sink.written == stream.changes
        assert stream.opened_at == [None, position(3)]

    def test_pauses_between_attempts_are_bounded(self) -> None:
        sink = MemorySink(open_faults=[AWAY] * 20)
        control = run(FakeStream([]), sink)
        assert max(control.waited) <= 1.0  # so that reports go on
        assert sum(control.waited) == pytest.approx(sum(min(MAX_RETRY_S, RETRY_S * 2**n) for n in range(20)), rel=0.02)

    def test_the_target_may_say_when_to_try_again(self) -> None:
        sink = MemorySink(faults=[SinkUnavailable("slow down", retry_after_s=7.5)])
        control = run(FakeStream(plain_changes(1)), sink)
        assert sum(control.waited) == pytest.approx(7.5, abs=0.1)

    def test_kafka_away_at_the_start_and_in_the_middle(self) -> None:
        stream, sink = FakeStream(plain_changes(9), open_faults=[NO_KAFKA], faults=[NO_KAFKA]), MemorySink()
        control = run(stream, sink, limits=BatchLimits(changes=3))
        assert sink.written == stream.changes
        assert control.reports[-1].kafka_failures == 2 and control.reports[-1].target_failures == 0

    def test_a_trimmed_position_is_an_error_with_the_earliest_one(self) -> None:
        trimmed = LogTrimmed("the earliest one is at offset 7")
        stream = FakeStream(plain_changes(9), faults=[LogTrimmed("deleted")], open_faults=[])
        opening = stream.open

        def open_source(start: StreamPosition | None) -> object:
            if len(stream.opened_at) == 1:
                stream.open_faults.append(trimmed)
            return opening(start)

        stream.open = open_source  # type: ignore[method-assign, assignment]
        with pytest.raises(LogTrimmed, match="at offset 7: `replicator sink reset orders`"):
            run(stream, MemorySink(checkpoint=position(3)))

    def test_reading_that_fails_as_trimmed_again_and_again_ends(self) -> None:
        stream = FakeStream(plain_changes(9), faults=[LogTrimmed("deleted")] * 3)
        with pytest.raises(LogTrimmed, match="deleted"):
            run(stream, MemorySink(checkpoint=position(3)))

    def test_what_the_target_refuses_is_not_repeated(self) -> None:
        sink, control = MemorySink(faults=[SinkFailed("no such column")]), FakeControl(caught_up)
        with pytest.raises(SinkFailed, match="no such column"):
            run(FakeStream(plain_changes(2)), sink, control=control)
        assert control.reports[-1].state is SinkState.FAILED and sink.opened == sink.closed == 1

    def test_a_target_that_cannot_be_configured(self) -> None:
        with pytest.raises(ConfigError, match="no such table"):
            run(FakeStream([]), MemorySink(open_faults=[ConfigError("no such table")]))

    def test_it_stops_while_the_target_is_away(self) -> None:
        sink = MemorySink(faults=[AWAY] * 100)
        control = run(FakeStream(plain_changes(2)), sink, until=lambda report: report.target_failures >= 3)
        assert sink.written == [] and sink.closed >= 1
        assert control.reports[-1].state is SinkState.STOPPED

    def test_an_outage_is_logged_once_and_by_interval(self, caplog: pytest.LogCaptureFixture) -> None:
        sink = MemorySink(faults=[AWAY] * 9)
        with caplog.at_level(logging.INFO, "replicator.stream.sinks.runner"):
            run(FakeStream(plain_changes(1)), sink)
        began, again, ended = caplog.messages
        assert began == f"writing to the target of sink orders fails: {AWAY}"
        assert again.startswith("writing to the target of sink orders has failed for 33 s")
        assert ended.endswith(", and succeeds again")


class TestReports:
    def test_a_pause_lasts_until_it_is_resumed(self) -> None:
        stream, sink = FakeStream(plain_changes(6)), MemorySink()
        control = FakeControl(caught_up)

        def resume() -> None:
            assert sink.written == []
            control.paused = len(control.waited) < 5

        control.paused, control.on_wait = True, resume
        run(stream, sink, control=control)
        assert [it.state for it in control.reports].count(SinkState.PAUSED) >= 5
        assert sink.written == stream.changes and sink.ticks >= 5

    def test_the_lag_grows_while_it_is_paused(self) -> None:
        stream, control = FakeStream(plain_changes(2)), FakeControl(caught_up)

        def write_more() -> None:
            stream.changes[:] = plain_changes(len(stream.changes) + 1)
            control.paused = len(stream.changes) < 6

        control.paused, control.on_wait = True, write_more
        run(stream, MemorySink(), control=control)
        assert [it.lag_messages for it in control.reports if it.state is SinkState.PAUSED] == [2, 3, 4, 5]

    def test_the_lag_includes_what_is_read_and_not_written(self) -> None:
        stream, control = FakeStream(plain_changes(2)), FakeControl(caught_up)
        control.on_wait = lambda: stream.changes.__setitem__(slice(None), plain_changes(4))
        run(stream, MemorySink(faults=[AWAY, None]), control=control)
        retrying = [it.lag_messages for it in control.reports if it.state is SinkState.RETRYING]
        assert retrying[-1] == 4

    def test_it_stops_while_it_is_paused(self) -> None:
        control = FakeControl(lambda report: report.state is SinkState.PAUSED)
        control.paused = True
        sink = MemorySink()
        run(FakeStream(plain_changes(1)), sink, control=control)
        assert sink.written == [] and control.reports[-1].state is SinkState.STOPPED

    def test_lag_is_the_age_of_the_last_change_while_there_are_more(self) -> None:
        control = run(FakeStream(plain_changes(6)), MemorySink(), limits=BatchLimits(changes=3))
        lags = [(it.lag_messages, it.lag_s) for it in control.reports if it.batches]
        assert lags[0] == (3, 2.0) and lags[-1] == (0, 0.0)

    def test_the_rate_is_of_the_last_seconds(self) -> None:
        rate = RateMeter()
        assert rate.note(0.0, 0) == 0.0
        assert rate.note(1.0, 100) == 100.0
        for second in range(2, 20):
            last = rate.note(float(second), 100 + 10 * second)
        assert last == pytest.approx(10.0)

    def test_a_stop_ends_a_wait(self) -> None:
        control = ProcessControl(lambda: False)
        control.stop_requested = True
        began_s = control.now_s()
        control.wait(60)
        assert control.now_s() - began_s < 30 and control.is_stopping() and not control.is_paused()
