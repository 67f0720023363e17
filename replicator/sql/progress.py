"""What happens while a statement is executed: when it pauses, and when it is ended."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import apsw

from replicator.limits import MAX_SQL_S
from replicator.sql.errors import OutOfMemory, SqlError
from replicator.sql.values import SqlValue, size_of

ROWS_PER_CHECK = 20
"""Rows that are read between two looks at the limits."""
_ROWS_AT_ONCE = 100
"""A statement that reads and writes more is executed in steps."""
_BYTES = 1 << 20
"""Bytes added to the result between two calls of `check`; one row may exceed it."""


class TakesLonger(Exception):
    """The statement is to be executed in steps."""


def takes_too_long() -> SqlError:
    return SqlError(f"the statement takes more than {MAX_SQL_S} s: it was cancelled")


Pause = Callable[[int], None]
"""It is called after each step, with the number of bytes that the step has added to the result."""


class Limit:
    """What happens while a statement is executed. What its methods raise ends the statement."""

    def __init__(self, rows_per_check: int = ROWS_PER_CHECK) -> None:
        """`rows_per_check`: that are read between two calls of `check`."""
        self._rows_per_check = rows_per_check
        self.steps = 0  # rows that were read, perhaps ahead, or written, or what takes as long

    def on_row(self) -> None:
        """A row was read, or is to be written."""
        self.steps += 1
        if self.steps % self._rows_per_check == 0:
            self.check()

    def on_rows(self, count: int) -> None:
        """As `on_row`, for as many."""
        before = self.steps // self._rows_per_check
        self.steps += count
        if self.steps // self._rows_per_check > before:
            self.check()

    def on_instructions(self) -> bool:
        """The engine has computed for a while. False: it goes on."""
        self.steps += ROWS_PER_CHECK
        self.check()
        return False

    def on_result(self, row: Sequence[SqlValue]) -> None:
        """A row of the result was added."""

    def check(self) -> None:
        """Raises an exception to end the statement. By default, it does nothing."""


class RowLimit(Limit):
    """Of a statement that is executed at once."""

    def on_instructions(self) -> bool:
        raise TakesLonger

    def check(self) -> None:
        if self.steps >= _ROWS_AT_ONCE:
            raise TakesLonger


class TimedSteps(Limit):
    """Of a statement that is executed in steps."""

    def __init__(
        self,
        pause: Pause,
        clock: Callable[[], float],
        until_s: float,
        max_memory: int,
        rows_per_check: int = ROWS_PER_CHECK,
    ) -> None:
        """`until_s`: by the clock, when it is cancelled. `max_memory`: bytes of the engine, when it is cancelled."""
        super().__init__(rows_per_check)
        self._max_memory = max_memory
        self._pause = pause
        self._clock = clock
        self._until_s = until_s
        self._size = 0

    def on_result(self, row: Sequence[SqlValue]) -> None:
        self._size += 16 * len(row) + size_of(row)
        if self._size > _BYTES:
            self.check()

    def check(self) -> None:
        if self._clock() > self._until_s:
            raise takes_too_long()
        if apsw.memory_used() > self._max_memory:
            raise OutOfMemory
        size, self._size = self._size, 0
        self._pause(size)
