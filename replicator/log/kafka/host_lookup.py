"""Looks up the hosts of brokers, before a connection does.

If a broker's host is gone, as a container that has stopped, the look-up of its name may take ten seconds. uvloop looks
up two names at a time, and goes on with those that nobody waits for any more: repeated attempts to reach that broker
would delay connections to all others. It also logs an error for each that fails after its connection was cancelled.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from ipaddress import ip_address
from typing import Any

from replicator.daemon_thread import in_daemon_thread


class HostLookup:
    """One look-up at a time for each host, in a thread of its own."""

    def __init__(self, resolve: Callable[[str], Any] = lambda host: socket.getaddrinfo(host, None)) -> None:
        self._resolve = resolve
        self._running: dict[str, asyncio.Task[Any]] = {}

    async def check(self, host: str) -> None:
        """Raises `OSError` if there is no such host. If cancelled, the look-up goes on for the next caller."""
        if _is_ip(host):
            return
        running = self._running.get(host)
        if running is None:
            running = self._running[host] = asyncio.create_task(in_daemon_thread(lambda: self._resolve(host)))
            running.add_done_callback(lambda ended: self._ended(host, ended))
        try:
            await asyncio.shield(running)
        except UnicodeError as error:
            raise OSError(f"{host} is not the name of a host: {error}") from error

    def _ended(self, host: str, ended: asyncio.Task[Any]) -> None:
        del self._running[host]
        if not ended.cancelled():
            ended.exception()  # retrieved: all callers may have been cancelled


def _is_ip(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True
