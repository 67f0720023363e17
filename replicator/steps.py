"""Long work in steps, between which other code may run."""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import TypeAlias, TypeVar

T = TypeVar("T")

Steps: TypeAlias = Generator[int, None, T]
"""It yields after each short step: the number of bytes that the step has added to the result."""


def finish(steps: Steps[T], check: Callable[[], None] | None = None) -> T:
    """The result of work, however many steps it takes. `check` is called after each; what it raises ends the work."""
    try:
        while True:
            next(steps)
            if check is not None:
                check()
    except StopIteration as end:
        result: T = end.value
        return result
    finally:
        steps.close()
