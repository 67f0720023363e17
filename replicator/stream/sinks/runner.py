"""Copies the change stream to a sink, from its checkpoint on, until it is stopped."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Protocol, TypeVar

from replicator.errors import BrokerUnavailable, LogDamage, LogTrimmed
from replicator.limits import SINK_BATCH_BYTES, SINK_BATCH_CHANGES
from replicator.node.outage_log import OutageLog
from replicator.stream.change import Change
from replicator.stream.position import StreamPosition
from replicator.stream.sinks.port import Sink, SinkUnavailable
from replicator.stream.sinks.report import RateMeter, SinkReport, SinkState

logger = logging.getLogger(__name__)

RETRY_S = 0.2  # after the first failure; doubled after each further one
MAX_RETRY_S = 10.0
IDLE_S = 0.5  # for which one read waits for changes
PAUSE_POLL_S = 0.2
_MESSAGE_BYTES = 300  # of a change without its values, about

Result = TypeVar("Result")


class ChangeSource(Protocol):
    """As `BlockingChangeStream`."""

    @property
    def position(self) -> StreamPosition: ...

    def read(self, limit: int, timeout_s: float | None = None) -> list[Change]: ...

    def lag(self) -> int: ...

    def close(self) -> None: ...


OpenSource = Callable[[StreamPosition | None], ChangeSource]
"""From this position on; None: from the earliest change. Raises as `BlockingChangeStream`."""


class RunControl(Protocol):
    """The clock, and whether the operator wants the sink to pause or stop."""

    def now_s(self) -> float: ...

    def wall_s(self) -> float:
        """Seconds since 1970."""
        ...

    def wait(self, seconds: float) -> None:
        """Return early when the sink is to stop."""
        ...

    def is_stopping(self) -> bool: ...

    def is_paused(self) -> bool: ...


@dataclass(frozen=True, slots=True)
class BatchLimits:
    changes: int = SINK_BATCH_CHANGES
    bytes: int = SINK_BATCH_BYTES
    wait_s: float = 0.1  # for more changes after the first one


class _Stopping(Exception):
    pass


class SinkRunner:
    def __init__(
        self,
        name: str,
        sink: Sink,
        open_source: OpenSource,
        control: RunControl,
        report: Callable[[SinkReport], None],
        limits: BatchLimits | None = None,
        *,
        once: bool = False,
    ) -> None:
        """`report` is called after each batch and each failure, and at least once a second unless the target blocks.

        `once`: return when all that is published is written.
        """
        self._name = name
        self._sink = sink
        self._open_source = open_source
        self._control = control
        self._send_report = report
        self._limits = limits or BatchLimits()
        self._once = once
        self._report = SinkReport(SinkState.STARTING, None)
        self._rate = RateMeter()
        self._target_outage = OutageLog(logger, f"writing to the target of sink {name}", control.now_s)
        self._kafka_outage = OutageLog(logger, "reading the change stream", control.now_s)
        self._retry_s = RETRY_S
        self._source: ChangeSource | None = None  # while it is open
        self._written_at: StreamPosition | None = None  # after the last change written, or where the source was opened
        self._last_us = 0  # when the last change written was made
        self._is_second_attempt = False  # to read from this checkpoint, after the first one found it damaged or trimmed

    def run(self) -> None:
        """Return once it is to stop, after the batch that is being written.

        Raises `SinkFailed`, `ConfigError`; `LogDamage` and `LogTrimmed` with what to do.
        """
        try:
            try:
                self._run()
            except _Stopping:
                pass
            finally:
                self._sink.close()
        except BaseException as error:
            self._note(state=SinkState.FAILED, changes_per_s=0.0, last_error=str(error) or type(error).__name__)
            raise
        self._note(state=SinkState.STOPPED, changes_per_s=0.0)

    def _run(self) -> None:
        self._note()
        checkpoint = self._until_it_succeeds(self._sink.open)
        while True:
            source = self._until_it_succeeds(lambda at=checkpoint: self._opened(at))  # type: ignore[misc]
            self._note(state=SinkState.RUNNING, position=checkpoint, lag_messages=source.lag())
            try:
                self._source, self._written_at = source, source.position
                checkpoint = self._copy(source, checkpoint)
            finally:
                self._source = None
                source.close()

    def _opened(self, checkpoint: StreamPosition | None) -> ChangeSource:
        try:
            return self._open_source(checkpoint)
        except (LogDamage, LogTrimmed) as error:
            raise type(error)(
                f"{error}: `replicator sink reset {self._name}`. A target that has to be complete needs the content of "
                "a snapshot then: see docs/sinks.md"
            ) from None

    def _copy(self, source: ChangeSource, checkpoint: StreamPosition | None) -> StreamPosition | None:
        """Until Kafka fails, or the target has another checkpoint than expected. Returns where to go on."""
        while True:
            self._check_control()
            self._sink.tick()
            try:
                changes = self._batch(source)
                position = source.position
                lag = source.lag()
            except BrokerUnavailable as error:
                self._failed(error)
                return checkpoint
            except (LogTrimmed, LogDamage):
                if self._is_second_attempt:
                    raise
                self._is_second_attempt = True  # opening it again says more, such as the earliest position
                return checkpoint
            self._kafka_outage.ended()
            if position != checkpoint:
                self._is_second_attempt = False
                now_at = self._write(changes, checkpoint, position)
                if now_at != position:
                    return now_at
            checkpoint = position
            self._note_written(changes, position, lag)
            if self._once and lag == 0:
                raise _Stopping

    def _check_control(self) -> None:
        """Raises `_Stopping`."""
        while self._control.is_paused() and not self._control.is_stopping():
            if self._report.state is not SinkState.PAUSED:
                logger.info("sink %s is paused: `replicator sink resume %s`", self._name, self._name)
            self._note(state=SinkState.PAUSED, changes_per_s=0.0, **self._lag())
            self._sink.tick()
            self._control.wait(PAUSE_POLL_S)
        if self._control.is_stopping():
            raise _Stopping

    def _batch(self, source: ChangeSource) -> list[Change]:
        """Raises as `ChangeSource.read`."""
        limits, control = self._limits, self._control
        found = source.read(limits.changes, IDLE_S)
        if not found:
            return found
        deadline_s, size = control.now_s() + limits.wait_s, size_bytes(found)
        while (
            len(found) < limits.changes
            and size < limits.bytes
            and (left_s := deadline_s - control.now_s()) > 0
            and not control.is_stopping()
        ):
            more = source.read(limits.changes - len(found), left_s)
            size += size_bytes(more)
            found += more
        return found

    def _write(
        self, changes: list[Change], before: StreamPosition | None, after: StreamPosition
    ) -> StreamPosition | None:
        """The checkpoint then: `after`, unless the target has lost what it had. Raises `SinkFailed`, `_Stopping`."""
        began_s = self._control.now_s()
        reopen = False
        while True:
            try:
                if reopen:
                    self._sink.close()
                    found = self._sink.open()
                    if found != before:
                        self._target_outage.ended()
                        return found
                self._sink.write(changes, after)
            except SinkUnavailable as error:
                self._failed(error)
                reopen = True
            else:
                self._target_outage.ended()
                took_s = self._control.now_s() - began_s
                self._report = replace(
                    self._report, batches=self._report.batches + 1, write_s=self._report.write_s + took_s
                )
                return after

    def _until_it_succeeds(self, step: Callable[[], Result]) -> Result:
        """Raises `_Stopping`, and what is not worth another attempt."""
        while True:
            if self._control.is_stopping():
                raise _Stopping
            try:
                result = step()
            except (SinkUnavailable, BrokerUnavailable) as error:
                self._failed(error)
            else:
                return result

    def _failed(self, error: SinkUnavailable | BrokerUnavailable) -> None:
        """Report it, and wait before the next attempt. Raises `_Stopping`."""
        report, is_target = self._report, isinstance(error, SinkUnavailable)
        (self._target_outage if is_target else self._kafka_outage).failed(error)
        self._note(
            state=SinkState.RETRYING,
            changes_per_s=0.0,
            last_error=str(error),
            target_failures=report.target_failures + is_target,
            kafka_failures=report.kafka_failures + (not is_target),
        )
        wait_s = self._retry_s
        self._retry_s = min(MAX_RETRY_S, 2 * self._retry_s)
        if isinstance(error, SinkUnavailable):
            wait_s = max(wait_s, error.retry_after_s)
        end_s = self._control.now_s() + wait_s
        while not self._control.is_stopping() and (left_s := end_s - self._control.now_s()) > 0:
            self._control.wait(min(1.0, left_s))
            self._note(**self._lag())
        if self._control.is_stopping():
            raise _Stopping

    def _lag(self) -> dict[str, float]:
        """While nothing is written. What is known of the end grows, as the source goes on to fetch."""
        if self._source is None or self._written_at is None:
            return {}
        read, written = (sum(it.next_offsets) for it in (self._source.position, self._written_at))
        lag = self._source.lag() + read - written  # a batch that is read may not be written
        return {"lag_messages": lag, "lag_s": self._age_s() if lag else 0.0}

    def _age_s(self) -> float:
        """Of the last change written; 0 if there is none."""
        return max(0.0, self._control.wall_s() - self._last_us / 1e6) if self._last_us else 0.0

    def _note_written(self, changes: list[Change], position: StreamPosition, lag: int) -> None:
        self._retry_s = RETRY_S
        written = self._report.written + len(changes)
        self._written_at = position
        if changes:
            self._last_us = changes[-1].source.timestamp_us
        self._note(
            state=SinkState.RUNNING,
            position=position,
            written=written,
            changes_per_s=self._rate.note(self._control.now_s(), written),
            lag_messages=lag,
            lag_s=self._age_s() if lag else 0.0,
        )

    def _note(self, **fields: object) -> None:
        self._report = replace(self._report, **fields)  # type: ignore[arg-type]
        self._send_report(self._report)


def size_bytes(changes: Iterable[Change]) -> int:
    """About as much as in the topic."""
    size = 0
    for change in changes:
        size += _MESSAGE_BYTES + sum(it.size_bytes for it in (change.before, change.after) if it is not None)
    return size


class ProcessControl:
    """`RunControl` of a process: the system clock, and a stop that a signal handler may request."""

    def __init__(self, is_paused: Callable[[], bool]) -> None:
        self.stop_requested = False
        self._is_paused = is_paused

    def now_s(self) -> float:
        return time.monotonic()

    def wall_s(self) -> float:
        return time.time()

    def wait(self, seconds: float) -> None:
        deadline_s = time.monotonic() + seconds
        while not self.stop_requested and (left_s := deadline_s - time.monotonic()) > 0:
            time.sleep(min(0.1, left_s))

    def is_stopping(self) -> bool:
        return self.stop_requested

    def is_paused(self) -> bool:
        return self._is_paused()
