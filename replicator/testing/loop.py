"""An asyncio event loop with virtual time and without I/O: a random generator determines the order of all callbacks.

Each callback belongs to a process (a context variable holds it). A process runs its callbacks in the order in which
they became ready, as asyncio guarantees; the next process to run is drawn. A paused process keeps its callbacks until
it is resumed, like a process stopped by SIGSTOP. When no callback is ready, time advances to the next timer.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import random
from asyncio import events
from collections import deque
from collections.abc import Callable, Coroutine
from contextvars import Context, ContextVar, copy_context
from typing import Any, TypeVar, TypeVarTuple

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

STEP_S = 5e-6
"""The least duration of a callback, so that no two events have the same time."""


class Stuck(Exception):
    """No callback is ready and no timer is set, or the run exceeds its maximum number of steps."""


class Process:
    """A unit that is paused and resumed as a whole."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.ready: deque[asyncio.Handle] = deque()
        self.paused = False
        self.context = copy_context()
        self.context.run(_process.set, self)


_process: ContextVar[Process] = ContextVar("process")


class _Task(asyncio.Task[Any]):
    """Hashes by serial number instead of by address, so that sets of tasks have the same order in each run."""

    def __init__(self, serial: int, coro: Coroutine[Any, Any, Any], **options: Any) -> None:
        self._serial = serial
        super().__init__(coro, **options)

    def __hash__(self) -> int:
        return self._serial


class SimLoop(asyncio.AbstractEventLoop):
    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._now_s = 0.0
        self._in_callback = False
        self._timers: list[tuple[float, int, asyncio.TimerHandle, Process]] = []
        self._serials = itertools.count(1)
        self._runnable: list[Process] = []  # processes that have ready callbacks and are not paused
        self.steps = 0
        self.outside = Process("outside")  # the broker, the clients, and the simulation itself
        self.after_step: Callable[[Process], None] = lambda process: None
        self.unhandled: list[str] = []

    # time and callbacks

    def time(self) -> float:
        return self._now_s

    def spend(self, duration_s: float) -> None:
        """Let the callback that runs now take that much longer. Without effect outside of callbacks."""
        if self._in_callback:
            self._now_s += duration_s

    def call_soon(
        self, callback: Callable[[*Ts], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.Handle:
        handle = asyncio.Handle(callback, args, self, context)
        self._make_ready(handle, self._process_of(context))
        return handle

    def call_later(
        self, delay: float, callback: Callable[[*Ts], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.TimerHandle:
        return self.call_at(self._now_s + delay, callback, *args, context=context)

    def call_at(
        self, when: float, callback: Callable[[*Ts], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.TimerHandle:
        handle = asyncio.TimerHandle(when, callback, args, self, context)
        heapq.heappush(self._timers, (when, next(self._serials), handle, self._process_of(context)))
        return handle

    def pause(self, process: Process) -> None:
        process.paused = True
        if process.ready:
            self._runnable.remove(process)

    def resume(self, process: Process) -> None:
        process.paused = False
        if process.ready:
            self._runnable.append(process)

    def _process_of(self, context: Context | None) -> Process:
        return _process.get(self.outside) if context is None else context.get(_process, self.outside)

    def _make_ready(self, handle: asyncio.Handle, process: Process) -> None:
        if not process.ready and not process.paused:
            self._runnable.append(process)
        process.ready.append(handle)

    # futures and tasks

    def create_future(self) -> asyncio.Future[Any]:
        return asyncio.Future(loop=self)

    def create_task(  # type: ignore[override]
        self, coro: Coroutine[Any, Any, T], *, name: str | None = None, context: Context | None = None
    ) -> asyncio.Task[T]:
        return _Task(next(self._serials), coro, loop=self, name=name, context=context)

    def get_debug(self) -> bool:
        return False

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        """Called by asyncio. A cancelled timer is skipped when it is due."""

    def is_running(self) -> bool:
        return True

    def is_closed(self) -> bool:
        return False

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        self.unhandled.append(f"{context.get('message')}: {context.get('exception')!r}")

    # running

    def run(self, main: Coroutine[Any, Any, T], max_steps: int) -> T:
        """Run until `main` ends. Raises `Stuck`."""
        events._set_running_loop(self)
        try:
            task = self.create_task(main)
            while not task.done():
                if self.steps >= max_steps:
                    raise Stuck(f"it has not ended after {max_steps} steps")
                self._step()
            return task.result()
        finally:
            events._set_running_loop(None)

    def _step(self) -> None:
        self._expire_timers()
        runnable = self._runnable
        index = int(self._rng.random() * len(runnable)) if len(runnable) > 1 else 0
        process = runnable[index]
        handle = process.ready.popleft()
        if not process.ready:
            runnable.pop(index)
        if handle.cancelled():
            return
        self.steps += 1
        self._now_s += STEP_S
        self._in_callback = True
        handle._run()
        self._in_callback = False
        self.after_step(process)

    def _expire_timers(self) -> None:
        timers = self._timers
        while True:
            while timers and timers[0][0] <= self._now_s:
                _, _, handle, process = heapq.heappop(timers)
                if not handle.cancelled():
                    self._make_ready(handle, process)
            if self._runnable:
                return
            if not timers:
                raise Stuck("no callback is ready and no timer is set")
            self._now_s = max(self._now_s, timers[0][0])
