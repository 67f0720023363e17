"""Runs a procedure: sets what of the process its result could depend on, and ends it.

During a run, calls may be nested to the same depth however deep the stack is, no garbage is collected, as that runs
`finally` of generators, and integers have as many digits as in any other process. What ends a procedure cannot be
caught in it (`goes_on`, `fatal`: `loading` adds them to each `finally` and `except`).
"""

from __future__ import annotations

import gc
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from replicator.limits import MAX_PROCEDURE_DEPTH, MAX_PROCEDURE_MS

MAX_INTEGER_DIGITS = 4300  # the default of Python, which PYTHONINTMAXSTRDIGITS changes
_HEADROOM = 500  # nested calls of our own, below those of a procedure: fewer than MAX_PROCEDURE_DEPTH
_REPEAT_S = 0.01  # CPU time between further signals


class Ended(BaseException):
    """Raised in a procedure to end it: procedures can only catch `Exception`."""


FATAL = (Ended, MemoryError, RecursionError)
"""At which depth the stack overflows, and how much memory there is, differs: a procedure must not go on after these."""


class _Run:
    """The procedure that runs in this process: one at a time."""

    lock = threading.Lock()
    thread: int | None = None  # None: there is none
    until_s = 0.0  # by the CPU time of the thread
    file = ""  # of its code
    depth_limit = 0  # of nested calls, in the whole stack
    is_over = False
    swallowed: BaseException | None = None  # one of FATAL, raised where Python ignores exceptions


def goes_on() -> bool:
    """Whether the body of a `finally` may run: neither while a procedure is ended, nor later, for garbage."""
    return _Run.thread == threading.get_ident() and not _Run.is_over and not isinstance(sys.exception(), FATAL)


def fatal() -> type[BaseException] | tuple[type[BaseException], ...]:
    """What a procedure cannot catch."""
    return BaseException if _Run.is_over else FATAL


@contextmanager
def running(function: Callable[..., Any], *, limited: bool) -> Iterator[None]:
    """Unless it is `limited`, it may take any time, and twice the depth: the leader has kept the limits.

    Raises `Ended`, `MemoryError`, `RecursionError`.
    """
    with _Run.lock, _process_settings(limited):
        _Run.thread, _Run.file = threading.get_ident(), function.__code__.co_filename
        _Run.is_over, _Run.swallowed = False, None
        try:
            with _cpu_timer(limited):
                yield
        finally:
            _Run.thread, _Run.file = None, ""
        if _Run.swallowed is not None:
            raise _Run.swallowed
        if _Run.is_over:
            raise Ended


class _Headroom:
    """In what a procedure calls, the stack does not overflow: that could fail half done, or be taken for an error."""

    def __enter__(self) -> None:
        sys.setrecursionlimit(_Run.depth_limit + _HEADROOM)

    def __exit__(self, *_: object) -> None:
        sys.setrecursionlimit(_Run.depth_limit)


HEADROOM = _Headroom()


@contextmanager
def _process_settings(limited: bool) -> Iterator[None]:
    depth, digits, hook = sys.getrecursionlimit(), sys.get_int_max_str_digits(), sys.unraisablehook
    collects = gc.isenabled()
    _Run.depth_limit = _stack_depth() + MAX_PROCEDURE_DEPTH * (1 if limited else 2)
    own = threading.get_ident()

    def note(unraisable: Any) -> None:
        if threading.get_ident() != own or not isinstance(unraisable.exc_value, FATAL):
            hook(unraisable)
        elif _Run.swallowed is None:
            _Run.swallowed = unraisable.exc_value

    gc.disable()
    try:
        sys.setrecursionlimit(_Run.depth_limit)
        sys.set_int_max_str_digits(MAX_INTEGER_DIGITS)
        sys.unraisablehook = note
        yield
    finally:
        sys.unraisablehook = hook
        sys.set_int_max_str_digits(digits)
        sys.setrecursionlimit(depth)
        if collects:
            gc.enable()


def _stack_depth() -> int:
    depth, frame = 0, sys._getframe()
    while frame.f_back is not None:
        depth, frame = depth + 1, frame.f_back
    return depth


@contextmanager
def _cpu_timer(limited: bool) -> Iterator[None]:
    """Raises `Ended` in a procedure that computes for MAX_PROCEDURE_MS without a use of its transaction.

    It works in the main thread only, as Python delivers signals to no other one. A function in C is not interrupted:
    the procedure ends once it returns.
    """
    if not limited or threading.current_thread() is not threading.main_thread():
        yield
        return
    _Run.until_s = time.thread_time() + MAX_PROCEDURE_MS / 1000
    signal.signal(signal.SIGPROF, _on_time)  # not reset, as a signal may still arrive after the timer
    signal.setitimer(signal.ITIMER_PROF, MAX_PROCEDURE_MS / 1000, _REPEAT_S)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)


def _on_time(number: int, frame: FrameType | None) -> None:
    """Only in code of the file: in our own code, an exception could leave a change half done. The timer repeats.

    It counts the CPU time of the process, whose other threads execute SQL.
    """
    if _Run.thread is None or time.thread_time() < _Run.until_s:
        return
    _Run.is_over = True
    if frame is not None and frame.f_code.co_filename == _Run.file:
        raise Ended
