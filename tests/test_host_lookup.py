"""A broker whose host is gone must not delay the connections to others."""

from __future__ import annotations

import asyncio
import gc
import socket
import threading
from collections import Counter
from typing import Any

import pytest

from replicator.log.kafka.host_lookup import HostLookup
from tests.memory_cluster import until


class SlowNames:
    """A resolver that answers for `gone` only when it is told to."""

    def __init__(self) -> None:
        self.asked: Counter[str] = Counter()
        self.answers = threading.Event()

    def __call__(self, host: str) -> None:
        self.asked[host] += 1
        if host == "gone":
            self.answers.wait()
            raise socket.gaierror(-2, "Name or service not known")


async def test_callers_that_gave_up_leave_one_look_up_and_no_error_in_the_log() -> None:
    logged: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: logged.append(context))
    names = SlowNames()
    lookup = HostLookup(names)
    for _ in range(5):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await lookup.check("gone")
        await lookup.check("kafka1")
    assert names.asked == {"gone": 1, "kafka1": 5}
    waiting = asyncio.create_task(lookup.check("gone"))
    await asyncio.sleep(0)
    names.answers.set()
    with pytest.raises(socket.gaierror):
        await waiting
    with pytest.raises(socket.gaierror):
        await lookup.check("gone")
    assert names.asked["gone"] == 2
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0):
            await lookup.check("gone")
    await until(lambda: not lookup._running)
    gc.collect()
    assert not logged


async def test_an_ip_address_is_not_looked_up() -> None:
    names = SlowNames()
    lookup = HostLookup(names)
    await lookup.check("127.0.0.1")
    await lookup.check("::1")
    assert not names.asked
