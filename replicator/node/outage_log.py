"""Logs a failure that repeats: once when it begins, then at most every `OUTAGE_LOG_S`, and once when it is over."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from replicator.intervals import OUTAGE_LOG_S


def _loop_s() -> float:
    return asyncio.get_running_loop().time()


class OutageLog:
    def __init__(self, logger: logging.Logger, what: str, now_s: Callable[[], float] = _loop_s) -> None:
        """`what` fails, such as: sending acks. `now_s`: by default the clock of the event loop."""
        self._logger = logger
        self._what = what
        self._now_s = now_s
        self._began_s: float | None = None  # None: the last attempt has succeeded
        self._logged_s = 0.0

    def failed(self, error: Exception) -> None:
        now_s = self._now_s()
        if self._began_s is None:
            self._began_s = self._logged_s = now_s
            self._logger.warning("%s fails: %s", self._what, error)
        elif now_s - self._logged_s >= OUTAGE_LOG_S:
            self._logged_s = now_s
            self._logger.warning("%s has failed for %.0f s: %s", self._what, now_s - self._began_s, error)

    def ended(self) -> None:
        """An attempt has succeeded, also if none had failed."""
        if self._began_s is not None:
            duration_s = self._now_s() - self._began_s
            self._began_s = None
            self._logger.info("%s failed for %.0f s, and succeeds again", self._what, duration_s)
