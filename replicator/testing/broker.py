"""A log and an ack topic that fail as a broker and a network do. One `Broker` a cluster, one `SimLog` a process.

What a process asks travels to the broker, is done there, and the answer travels back: a pause or the death of the
process in between changes nothing of what the broker does.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence
from typing import Any

from replicator.errors import BrokerUnavailable
from replicator.log.memory import MemoryLog
from replicator.log.port import AppendOutcomeUnknown, AppendRefused, Entry
from replicator.position import Offset
from replicator.testing.faults import Fate, Faults
from replicator.testing.loop import SimLoop

TIMEOUT_MS = 400.0  # after which an append without an answer is in doubt
_LATE_MS = 3000.0
_MAX_ENTRIES = 50


class Broker:
    def __init__(self, loop: SimLoop, rng: random.Random, faults: Faults, trace: Callable[[str], None]) -> None:
        self.loop = loop
        self.rng = rng
        self.faults = faults
        self.trace = trace
        self.log = MemoryLog(identity="simulated")
        self.landed_s: list[float] = []  # when each entry came, by offset
        self.down_until_s = 0.0
        self.channels: list[SimAcks] = []

    def later(self, delay_ms: float, callback: Callable[..., object], *args: Any) -> None:
        """Do it after `delay_ms`, whatever becomes of the process that asks."""
        self.loop.call_later(delay_ms / 1000, callback, *args, context=self.loop.outside.context)

    @property
    def down_ms(self) -> float:
        """How long the broker will still be away."""
        return max(0.0, (self.down_until_s - self.loop.time()) * 1000)

    def message_ms(self) -> float:
        return self.faults.message_ms(self.rng)

    def append(self, payloads: Sequence[bytes]) -> Offset:
        self.landed_s += [self.loop.time()] * len(payloads)
        return self.log.append_now(payloads)

    def publish(self, payload: bytes) -> None:
        for channel in self.channels:
            if self.rng.random() >= self.faults.ack_lost:
                self.later(self.message_ms(), channel.deliver, payload)


class Link:
    """One process's connection to the broker. A cut one (the process was killed) carries nothing new."""

    def __init__(self, broker: Broker, name: str) -> None:
        self.broker = broker
        self.name = name
        self.cut = False
        self.stalled_until_s = 0.0  # nothing of the log reaches this process until then
        self.away_until_s = 0.0  # this process alone cannot reach the broker
        self.lag_ms = broker.rng.choice((0.0, 0.0, 10.0, 200.0))  # by which it reads later than others, at most

    @property
    def down_ms(self) -> float:
        """How long what is asked now waits before it reaches the broker."""
        return max(self.broker.down_ms, (self.away_until_s - self.broker.loop.time()) * 1000)

    async def pause(self, duration_ms: float) -> None:
        await asyncio.sleep(duration_ms / 1000)


class SimLog:
    def __init__(self, link: Link) -> None:
        self._link = link
        self._broker = link.broker
        self.identity = link.broker.log.identity

    async def append(self, payloads: Sequence[bytes]) -> Offset:
        link, broker = self._link, self._broker
        if link.cut:
            await asyncio.Event().wait()
        rng = broker.rng
        answer: asyncio.Future[Offset] = asyncio.get_running_loop().create_future()
        fate = broker.faults.fate(rng)
        there_ms = broker.message_ms()
        down_ms = link.down_ms
        if down_ms:
            there_ms += down_ms  # the request waits for the broker, unless it was lost with its connection
            fate = rng.choice((fate, Fate.LOST))
        if fate is not Fate.FINE:
            broker.trace(f"{link.name}: append of {len(payloads)} {fate}")
        if fate is Fate.REFUSED:
            broker.later(there_ms, self._tell, answer, AppendRefused("the broker refuses"))
        elif fate is Fate.LATE:
            broker.later(there_ms + TIMEOUT_MS + rng.random() * _LATE_MS, self._land, payloads, answer, True)
        elif fate is Fate.SLOW:
            broker.later(there_ms + rng.random() * TIMEOUT_MS, self._land, payloads, answer, True)
        elif fate is not Fate.LOST:
            broker.later(there_ms, self._land, payloads, answer, fate is not Fate.UNANSWERED)
        if fate is Fate.TWICE:
            broker.later(there_ms + rng.choice((0.0, 1.0, _LATE_MS)) * rng.random(), self._land, payloads, answer, True)
        broker.later(TIMEOUT_MS, self._tell, answer, AppendOutcomeUnknown("the broker has not answered in time"))
        return await answer

    def _land(self, payloads: Sequence[bytes], answer: asyncio.Future[Offset], answered: bool) -> None:
        base = self._broker.append(payloads)
        if answered:
            self._broker.later(self._broker.message_ms(), self._tell, answer, base)

    @staticmethod
    def _tell(answer: asyncio.Future[Offset], outcome: Offset | Exception) -> None:
        if answer.done():
            return
        if isinstance(outcome, Exception):
            answer.set_exception(outcome)
        else:
            answer.set_result(outcome)

    def reader(self, start: Offset) -> SimReader:
        return SimReader(self._link, start)

    async def start(self) -> Offset:
        return await self._broker.log.start()

    async def end(self) -> Offset:
        link, broker = self._link, self._broker
        await link.pause(broker.message_ms())
        if link.down_ms or broker.rng.random() < broker.faults.end_fails:
            await link.pause(broker.message_ms())
            raise BrokerUnavailable("the broker does not answer")
        found: asyncio.Future[Offset] = asyncio.get_running_loop().create_future()
        broker.later(0, self._ask_end, found)
        return await found

    def _ask_end(self, found: asyncio.Future[Offset]) -> None:
        """At the broker; the answer may then take its time."""
        entries = self._broker.log.entries
        end = Offset(entries[-1].offset + 1 if entries else 0)
        self._broker.later(self._broker.message_ms(), self._tell, found, end)

    async def close(self) -> None:
        pass


class SimReader:
    def __init__(self, link: Link, start: Offset) -> None:
        self._link = link
        self._inner = link.broker.log.reader(start)
        self._fetched: list[Entry] = []

    async def next(self) -> Sequence[Entry]:
        link, broker = self._link, self._link.broker
        if not self._fetched:
            found = await self._inner.next()
            self._fetched = list(found[: broker.rng.randint(1, _MAX_ENTRIES)])
            self._inner.seek(Offset(self._fetched[-1].offset + 1))
        await link.pause(broker.message_ms() + broker.rng.random() * link.lag_ms)
        while (wait_s := link.stalled_until_s - broker.loop.time()) > 0:
            await link.pause(wait_s * 1000)
        if link.cut:
            await asyncio.Event().wait()
        if link.down_ms or broker.rng.random() < broker.faults.read_fails:
            raise BrokerUnavailable("the broker does not answer")
        entries, self._fetched = self._fetched, []
        return entries

    def seek(self, offset: Offset) -> None:
        self._fetched = []
        self._inner.seek(offset)

    async def close(self) -> None:
        pass


class SimAcks:
    def __init__(self, link: Link) -> None:
        self._link = link
        self._arrived: asyncio.Queue[bytes] = asyncio.Queue()
        link.broker.channels.append(self)

    def deliver(self, payload: bytes) -> None:
        self._arrived.put_nowait(payload)

    async def send(self, payload: bytes) -> None:
        broker = self._link.broker
        await self._link.pause(broker.message_ms())
        if self._link.down_ms:
            raise BrokerUnavailable("the broker does not answer")
        if not self._link.cut:
            broker.publish(payload)

    async def receive(self) -> Sequence[bytes]:
        return [await self._arrived.get()]

    async def skip(self) -> None:
        while not self._arrived.empty():
            self._arrived.get_nowait()

    async def close(self) -> None:
        self._link.broker.channels.remove(self)
