"""Running one coroutine together with others that last as long as it does, and blocking work in a thread."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from typing import Any, TypeVar

from replicator.errors import ReplicatorError

T = TypeVar("T")


async def run_with_background(main: Coroutine[Any, Any, T], *others: Coroutine[Any, Any, None]) -> T:
    """Run `main` to its end, and the others until then. The first exception of any ends all."""
    first = asyncio.create_task(main)
    tasks: list[asyncio.Task[Any]] = [first, *map(asyncio.create_task, others)]
    waiting: set[asyncio.Task[Any]] = set(tasks)
    try:
        while not first.done():
            done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        return first.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def in_daemon_thread(work: Callable[[], T]) -> T:
    """As `asyncio.to_thread`, but a process that stops does not wait for the thread."""
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
    return await asyncio.wrap_future(ended)
