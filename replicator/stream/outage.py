"""Finds out from a consumer that hides lost connections whether Kafka answers."""

from __future__ import annotations


class OutageDetector:
    """Counts the time that was spent on waiting without an answer, and no other time."""

    def __init__(self, limit_s: float) -> None:
        self._limit_s = limit_s
        self._waited_s = 0.0  # since the last answer, or the last report
        self._answered_ms = 0
        self._reports = 0  # since the last answer

    @property
    def is_new(self) -> bool:
        """Whether the outage was reported for the first time."""
        return self._reports == 1

    def is_outage(self, found: bool, answered_ms: int, waited_s: float) -> bool:
        """After a fetch that took `waited_s`; `answered_ms` is the time of the last answer, by any clock."""
        if found or answered_ms != self._answered_ms:
            self._answered_ms, self._waited_s, self._reports = answered_ms, 0.0, 0
            return False
        self._waited_s += waited_s
        if self._waited_s < self._limit_s:
            return False
        self.note_report()
        return True

    def note_report(self) -> None:
        """The outage is reported now, also if another request than a fetch has failed."""
        self._waited_s = 0.0
        self._reports += 1
