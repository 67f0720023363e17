"""Runs work of SQLite's engine in steps, on a thread of its own: C code cannot be suspended like a generator.

Only the thread that has the turn touches what both use, such as the store, so that it needs no locks. A step gives the
turn to the worker and waits until it pauses. Work leaves the turn while SQLite computes, which needs none of our data
and, as apsw releases the GIL, no time of the other thread: if that takes long, the step ends, and the next one waits
again. SQLite calls code of ours back, which takes the turn, and so waits for such a step, before it touches any of
that; what belongs to one statement, such as the rows of a cursor that were read ahead, needs no turn.
"""

from __future__ import annotations

import os
import traceback
from _thread import allocate_lock, start_new_thread
from collections.abc import Callable, Generator
from contextvars import copy_context
from math import inf
from time import monotonic, sleep, thread_time
from typing import Any, Generic, ParamSpec, TypeVar

from replicator.sql.errors import OutOfMemory

_waited_s = 0.0


def cpu_s() -> float:
    """CPU time of this thread, and the time for which it has waited in steps."""
    return thread_time() + _waited_s


P = ParamSpec("P")
T = TypeVar("T")

_IDLE_THREADS = 4
_SHORT_S = 0.002
"""A pause does not end a step that is shorter, as it takes time to change between threads; unless `wait_s` is None."""


class Ended(BaseException):
    """The steps were closed: raised in the work."""


class Turn:
    """The turn of one worker. The thread that has it may run code of ours."""

    def __init__(self) -> None:
        self._free = allocate_lock()  # locked while a thread has the turn: at first, that of the steps
        self._free.acquire()
        self._paused, self._resumed = allocate_lock(), allocate_lock()  # released as signals: locked if there is none
        self._paused.acquire()
        self._resumed.acquire()
        self._until_s = -inf  # by `monotonic`: until then, a pause does not end the step
        self._sizes: list[int] = []  # the arguments of the pauses in this step
        self._is_paused = False
        self._is_wanted = False  # a step waits for longer than it should
        self._has_ended = False  # set while the worker has not the turn: it runs no code of ours from then on
        self._ends = [None]  # taken by the worker when it ends, or by the other thread when it waits no more

    # Called by the worker

    def take(self) -> None:
        """The worker enters code of ours. Raises `Ended`."""
        if self._has_ended:
            raise Ended
        self._free.acquire()
        if self._has_ended:
            raise Ended
        if self._is_wanted:
            self.pause(0)

    def leave(self) -> None:
        """The worker enters code of SQLite, which may take long."""
        if not self._has_ended:
            self._free.release()

    def pause(self, size: int) -> None:
        """End the step, or go on if it was short; `size`: bytes that were added to the result. Raises `Ended`."""
        if self._has_ended:
            raise Ended
        self._sizes.append(size)
        if monotonic() < self._until_s:
            return
        self._is_wanted = False
        self._paused.release()
        self._resumed.acquire()
        if self._has_ended:
            raise Ended

    def inside(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call a function of ours, while SQLite calls back. Raises `Ended`."""
        self.take()
        try:
            return function(*args, **kwargs)
        finally:
            self.leave()

    def outside(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call a function of SQLite, which may take long. Raises `Ended`."""
        self.leave()
        try:
            return function(*args, **kwargs)
        finally:
            self.take()

    def end(self) -> bool:
        """The worker has ended. False: the other thread does not wait for it."""
        try:
            self._ends.pop()
        except IndexError:
            return False
        self._is_wanted = False
        self._paused.release()
        return True

    # Called by the other thread, which has the turn

    def step(self, wait_s: float | None) -> list[int]:
        """Let the worker run until it pauses after `_SHORT_S`, or until SQLite computes after `wait_s`.

        None: it pauses whenever it can, and SQLite may compute for any time.
        Returns the arguments of its pauses.
        """
        global _waited_s
        self._sizes = []
        began_s = monotonic()
        self._until_s = -inf if wait_s is None else began_s + _SHORT_S
        if self._is_paused:
            self._is_paused = False
            self._resumed.release()
        else:
            self._free.release()
        timeout = -1.0 if wait_s is None else wait_s
        while not self._paused.acquire(timeout=timeout):
            if self._free.acquire(blocking=False):
                break
            self._is_wanted, self._until_s = True, -inf
        else:
            self._is_paused = True
        _waited_s += monotonic() - began_s
        return self._sizes

    def close(self, interrupt: Callable[[], None], wait_s: float | None) -> bool:
        """End the work. False: SQLite computes, and the worker ends when it can; until then, its data is in use."""
        self._has_ended = True
        if self._is_paused:
            self._resumed.release()
        else:
            interrupt()
            self._free.release()
            wait_s = 0
        if self._paused.acquire(timeout=-1.0 if wait_s is None else wait_s):
            return True
        try:
            self._ends.pop()
        except IndexError:
            self._paused.acquire()
            return True
        return False


class Work(Generic[T]):
    """It is executed in steps. Close it in the end."""

    def __init__(
        self,
        work: Callable[[Turn], T],
        interrupt: Callable[[], None],
        discard: Callable[[], None],
        is_overdue: Callable[[], bool],
    ) -> None:
        """`interrupt`: ends what SQLite computes; `discard`: called on the worker if it ends after `close`.

        `is_overdue`: whether SQLite is to be interrupted. While it calls nothing back, the work cannot end itself.
        """
        self._turn = Turn()
        self._work: Callable[[Turn], T] | None = work
        self._interrupt = interrupt
        self._discard = discard
        self._is_overdue = is_overdue
        self._result: T
        self._failure: BaseException | None = None
        self._has_ended = False

    def run(self, wait_s: float | None) -> Generator[int, None, T]:
        """Yields the argument of each pause. If it is closed, `Ended` is raised in the work."""
        context = copy_context()
        try:
            _run_on_thread(lambda: context.run(self._run))
        except RuntimeError as error:
            self._has_ended = True
            raise OutOfMemory("this node cannot start another thread for SQL: raise its limit of threads") from error
        while not self._has_ended:
            sizes = self._turn.step(wait_s)
            yield from sizes
            if not (sizes or self._has_ended):
                if self._is_overdue():
                    self._interrupt()
                yield 0
        failure, self._failure = self._failure, None  # its traceback refers to this object
        if failure is not None:
            try:
                raise failure
            finally:
                del failure
        return self._result

    def close(self, wait_s: float | None) -> bool:
        """Whether the work has ended, so that what it used can be used again."""
        _abandoned.add(self)  # before the worker may end
        if not (self._has_ended or self._turn.close(self._interrupt, wait_s)):
            return False
        _abandoned.discard(self)
        self._failure = None  # its traceback refers to this object
        return True

    def _run(self) -> None:
        work, self._work = self._work, None
        assert work is not None
        try:
            self._turn.take()
            self._result = work(self._turn)
        except BaseException as error:  # noqa: BLE001 (raised by `run`)
            _clear_frames(error)
            self._failure = error
        del work
        self._has_ended = True
        if not self._turn.end():
            self._failure = None
            try:
                self._discard()
            finally:
                _abandoned.discard(self)


def _clear_frames(error: BaseException | None) -> None:
    """Free the local variables in the traceback of an error and of its causes.

    They may be large results, and cursors, whose memory SQLite keeps until they are closed.
    """
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        error = error.__cause__ or error.__context__


_abandoned: set[Work[Any]] = set()
"""Closed works that go on until SQLite calls back."""
MAX_ABANDONED = 4


def wait_for_thread(wait_s: float | None) -> Generator[int, None, None]:
    """In steps, until there are few threads whose work was closed: they compute for nobody."""
    while len(_abandoned) >= MAX_ABANDONED:
        yield 0
        sleep(wait_s or 0)


class _Thread:
    def __init__(self) -> None:
        self._given = allocate_lock()
        self._given.acquire()
        self._work: Callable[[], None] | None = None
        start_new_thread(self._run, ())

    def run(self, work: Callable[[], None]) -> None:
        self._work = work
        self._given.release()

    def _run(self) -> None:
        while True:
            self._given.acquire()
            work, self._work = self._work, None
            assert work is not None
            work()
            del work
            if len(_idle) >= _IDLE_THREADS:
                return
            _idle.append(self)


_idle: list[_Thread] = []
"""Threads that wait for work."""
os.register_at_fork(after_in_child=_idle.clear)  # which has no threads


def _run_on_thread(work: Callable[[], None]) -> None:
    try:
        thread = _idle.pop()
    except IndexError:
        thread = _Thread()
    thread.run(work)
