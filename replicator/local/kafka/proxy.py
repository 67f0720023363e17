"""TCP proxies between brokers and their clients: a link can be cut, and healed again."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import threading
from collections.abc import Coroutine
from typing import Any, TypeVar

from replicator.address import Address

HOST = "127.0.0.1"
READ_BYTES = 1 << 16
SWITCH_INTERVAL_S = 0.0005

T = TypeVar("T")


class Link:
    """One proxy. While it is cut nothing passes, and nobody is told: as in a network that loses all packets.

    What was sent meanwhile arrives once it is healed.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, target_port: int) -> None:
        """Use `Proxies.add`."""
        self._loop = loop
        self._target_port = target_port
        self._whole = asyncio.Event()
        self._whole.set()

    def cut(self) -> None:
        self._loop.call_soon_threadsafe(self._whole.clear)

    def heal(self) -> None:
        self._loop.call_soon_threadsafe(self._whole.set)

    async def listen(self, at: Address) -> asyncio.Server:
        return await asyncio.start_server(self._serve, at.host, at.port)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await self._whole.wait()
            target_reader, target_writer = await asyncio.open_connection(HOST, self._target_port)
        except OSError:
            writer.transport.abort()
            return
        pumps = [
            asyncio.create_task(self._pump(reader, target_writer)),
            asyncio.create_task(self._pump(target_reader, writer)),
        ]
        try:
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for pump in pumps:
                pump.cancel()
            writer.close()
            target_writer.close()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(READ_BYTES):
                await self._whole.wait()
                writer.write(data)
                await writer.drain()
            await self._whole.wait()  # the end of a connection does not pass either


class Proxies:
    """All proxies of one program, on an event loop in a thread of their own: they go on while its tests block."""

    def __init__(self) -> None:
        # By default the thread of the proxies gets a busy interpreter after 5 ms, too late for heartbeats of brokers.
        sys.setswitchinterval(SWITCH_INTERVAL_S)
        self._loop = asyncio.new_event_loop()
        self._servers: list[asyncio.Server] = []
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxies", daemon=True)
        self._thread.start()

    def add(self, target_port: int, at: Address) -> Link:
        """A proxy that listens at the address. Raises `OSError`."""
        return self._run(self._add(target_port, at))

    def close(self) -> None:
        self._run(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _add(self, target_port: int, at: Address) -> Link:
        link = Link(self._loop, target_port)
        self._servers.append(await link.listen(at))
        return link

    async def _close(self) -> None:
        for server in self._servers:
            server.close()
        connections = asyncio.all_tasks() - {asyncio.current_task()}
        for task in connections:
            task.cancel()
        await asyncio.gather(*connections, return_exceptions=True)

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()
