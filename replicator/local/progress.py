"""How operations that take time report their progress; the caller displays it."""

from __future__ import annotations

from typing import Protocol


class ProgressReporter(Protocol):
    def step(self, text: str) -> None:
        """The next step begins. It replaces the last step and its bars."""

    def bar(self, name: str, text: str, completed: int = 0, total: int | None = None) -> None:
        """How far the part `name` of the current step is. `total` None: unknown."""

    def done(self, text: str) -> None:
        """A result that the user keeps: "stopped n1"."""

    def notice(self, text: str) -> None:
        """Why the step takes long: not a result, but the user keeps it."""


class NoProgress:
    """For callers that show no progress."""

    def step(self, text: str) -> None:
        pass

    def bar(self, name: str, text: str, completed: int = 0, total: int | None = None) -> None:
        pass

    def done(self, text: str) -> None:
        pass

    def notice(self, text: str) -> None:
        pass


NO_PROGRESS: ProgressReporter = NoProgress()
