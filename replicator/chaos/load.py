"""The load of a chaos run: clients that write all the time to whoever leads, and try once more if that fails."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from typing import Any

import hiredis

from replicator.chaos.client import Connection, NotConnected
from replicator.chaos.ledger import End, Ledger

CLIENTS = 8
PACE_S = 0.003  # between two writes of a client
FAILED_PACE_S = 0.01
ANSWER_S = 0.3  # then the client gives the node up
LOOKUP_S = 0.02  # for the nodes to tell who leads: one that stands still must not hold up the others

_NAMED = re.compile(r"(\S+) leads now")


def end_of(reply: Any) -> End:
    if not isinstance(reply, hiredis.ReplyError):
        return End.ACKNOWLEDGED
    return End.UNKNOWN if str(reply).startswith("UNKNOWN") else End.REJECTED


class Load:
    """Runs in the background between `start` and `stop`; `hold` lets it rest."""

    def __init__(self, ports: Mapping[str, int], password: str, leader: str, ledger: Ledger) -> None:
        self.ledger = ledger
        self._going = asyncio.Event()
        self._clients = [_Client(ports, password, leader, ledger) for _ in range(CLIENTS)]
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        self._going.set()
        self._tasks = [asyncio.create_task(client.run(self._going)) for client in self._clients]

    async def hold(self) -> None:
        """Return when no write is under way."""
        self._going.clear()
        await asyncio.gather(*(client.resting.wait() for client in self._clients))

    def go_on(self) -> None:
        self._going.set()

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for client in self._clients:
            client.close()


class _Client:
    def __init__(self, ports: Mapping[str, int], password: str, leader: str, ledger: Ledger) -> None:
        self.resting = asyncio.Event()
        self._connections = {id: Connection(port, password) for id, port in ports.items()}
        self._leader: str | None = leader  # as far as this client knows
        self._ledger = ledger

    async def run(self, going: asyncio.Event) -> None:
        while True:
            self.resting.set()
            await going.wait()
            self.resting.clear()
            await asyncio.sleep(PACE_S if await self._write() else FAILED_PACE_S)

    async def _write(self) -> bool:
        ledger = self._ledger
        number = ledger.open()
        end = await self._try(number)
        if end is not End.ACKNOWLEDGED:
            end = end.then(await self._try(number))
        ledger.note(number, end, self._leader or "")
        ledger.failed_twice += end is not End.ACKNOWLEDGED
        return end is End.ACKNOWLEDGED

    async def _try(self, number: int) -> End:
        """If it fails, `_leader` is who leads now."""
        self._leader = self._leader or await self._who_leads()
        if self._leader is None:
            return End.REJECTED
        message = ""
        try:
            reply = await self._connections[self._leader].ask(ANSWER_S, "SET", self._ledger.key(number), number)
            end, message = end_of(reply), str(reply)
        except NotConnected:
            end = End.REJECTED
        except (OSError, TimeoutError):
            end = End.UNKNOWN
        if end is not End.ACKNOWLEDGED:
            named = _NAMED.search(message)
            self._leader = named[1] if named else await self._who_leads()
        return end

    async def _who_leads(self) -> str | None:
        """The first node that says so."""
        asking = [asyncio.create_task(self._leads(id)) for id in self._connections]
        try:
            for told in asyncio.as_completed(asking, timeout=LOOKUP_S):
                if (id := await told) is not None:
                    return id
        except TimeoutError:
            return None
        finally:
            for task in asking:
                task.cancel()
            await asyncio.gather(*asking, return_exceptions=True)
        return None

    async def _leads(self, id: str) -> str | None:
        try:
            role = await self._connections[id].ask(LOOKUP_S, "ROLE")
        except (NotConnected, OSError, TimeoutError):
            return None
        return id if isinstance(role, list) and role[0] == b"master" else None

    def close(self) -> None:
        for connection in self._connections.values():
            connection.close()
