"""Blocking work in a thread for which a process that stops does not wait."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

from replicator.errors import ReplicatorError

T = TypeVar("T")


async def in_daemon_thread(work: Callable[[], T]) -> T:
    """As `asyncio.to_thread`, but a process that stops does not wait for the thread."""
    return await asyncio.wrap_future(start_daemon_thread(work))


def start_daemon_thread(work: Callable[[], T]) -> Future[T]:
    """Returns the result that the work will have, or the exception that it will raise."""
    ended: Future[T] = Future()

    def run() -> None:
        try:
            result = work()
        except ReplicatorError as error:
            ended.set_exception(error.with_traceback(None))  # whose frames would keep clients of Kafka, and threads
        except BaseException as error:  # noqa: BLE001 (raised where this is awaited)
            ended.set_exception(error)
        else:
            ended.set_result(result)

    ended.set_running_or_notify_cancel()
    threading.Thread(target=run, daemon=True).start()
    return ended
