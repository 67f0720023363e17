"""Runs work of the engine in steps: it cannot be left and continued by itself, so it has a stack of its own."""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import TypeVar

from greenlet import getcurrent, greenlet

T = TypeVar("T")

Pause = Callable[[int], None]
"""To be called in the work after each step, with the number of bytes that it has added to the result."""


def in_steps(work: Callable[[Pause], T]) -> Generator[int, None, T]:
    """Yields what each `pause` gets. If the generator is closed, `GreenletExit` is raised in the work."""
    worker = greenlet(work)

    def pause(size: int) -> None:
        worker.parent.switch(size)

    worker.parent = getcurrent()
    value = worker.switch(pause)
    try:
        while not worker.dead:
            yield value
            worker.parent = getcurrent()  # which may be another one than before
            value = worker.switch()
    finally:
        if not worker.dead:
            worker.parent = getcurrent()
            worker.throw()
    return value  # type: ignore[no-any-return]
