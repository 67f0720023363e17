"""A simulated log and ack topic with broker and network faults. One `Broker` per cluster, one `SimLog` per process.

A request travels to the broker, is executed there, and the answer travels back. If the process is paused or killed
meanwhile, the broker still executes the request.
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
from replicator.testing.faults import AppendFault, Faults
from replicator.testing.loop import SimLoop

TIMEOUT_MS = 400.0  # after which the outcome of an append without an answer is unknown
_LATE_MS = 3000.0
_MAX_ENTRIES = 50


def deliver(answer: asyncio.Future[Offset], outcome: Offset | Exception) -> None:
    """The answer to a request has arrived; the asker may have given up."""
    if answer.done():
        return
    if isinstance(outcome, Exception):
        answer.set_exception(outcome)
    else:
        answer.set_result(outcome)


class Broker:
    def __init__(self, loop: SimLoop, rng: random.Random, faults: Faults, trace: Callable[[str], None]) -> None:
        self.loop = loop
        self.rng = rng
        self.faults = faults
        self.trace = trace
        self.log = MemoryLog(identity="simulated")
        self.appended_s: list[float] = []  # when each entry was appended, by offset
        self.down_until_s = 0.0
        self.channels: list[SimAcks] = []

    def later(self, delay_ms: float, callback: Callable[..., object], *args: Any) -> None:
        """Call back after `delay_ms`, even if the calling process is paused or killed meanwhile."""
        self.loop.call_later(delay_ms / 1000, callback, *args, context=self.loop.outside.context)

    @property
    def down_ms(self) -> float:
        """Remaining time of the outage."""
        return max(0.0, (self.down_until_s - self.loop.time()) * 1000)

    @property
    def end(self) -> Offset:
        entries = self.log.entries
        return Offset(entries[-1].offset + 1 if entries else 0)

    def message_ms(self) -> float:
        return self.faults.message_ms(self.rng)

    def append(self, payloads: Sequence[bytes]) -> Offset:
        self.appended_s += [self.loop.time()] * len(payloads)
        return self.log.append_now(payloads)

    def publish(self, payload: bytes) -> None:
        for channel in self.channels:
            if self.rng.random() >= self.faults.ack_lost:
                self.later(self.message_ms(), channel.deliver, payload)


class Link:
    """One process's connection to the broker. Once it is cut (the process was killed), it carries no new requests."""

    def __init__(self, broker: Broker, name: str) -> None:
        self.broker = broker
        self.name = name
        self.cut = False
        self.stalled_until_s = 0.0  # this process receives no entries of the log until then
        self.away_until_s = 0.0  # this process alone cannot reach the broker
        self.isolated_until_s = 0.0  # this process and the other nodes cannot reach each other
        self.deposed_until_s = 0.0  # this process talks to a broker that was deposed and does not know it
        self.deposed_end = Offset(0)  # what that broker takes for the end of the log
        self.lag_ms = broker.rng.choice((0.0, 0.0, 10.0, 200.0))  # maximum extra delay of its reads

    @property
    def down_ms(self) -> float:
        """How long a request sent now waits before it reaches the broker."""
        return max(self.broker.down_ms, (self.away_until_s - self.broker.loop.time()) * 1000)

    @property
    def isolated(self) -> bool:
        return self.broker.loop.time() < self.isolated_until_s

    @property
    def deposed(self) -> bool:
        return self.broker.loop.time() < self.deposed_until_s

    def depose_broker(self, duration_s: float) -> None:
        """For so long, this process reads nothing new, is told the present end of the log, and its appends are lost."""
        now_s = self.broker.loop.time()
        self.deposed_end = self.broker.end
        self.deposed_until_s = self.stalled_until_s = now_s + duration_s

    def heal(self) -> None:
        self.stalled_until_s = self.away_until_s = self.isolated_until_s = self.deposed_until_s = 0.0

    async def pause(self, duration_ms: float) -> None:
        await asyncio.sleep(duration_ms / 1000)


class SimLog:
    reconnections = 0  # no leader of the partition lacks what another one had

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
        fault = broker.faults.append_fault(rng)
        arrival_ms = broker.message_ms()
        down_ms = link.down_ms
        if down_ms:
            arrival_ms += down_ms  # the request waits for the broker, unless it was lost with its connection
            fault = rng.choice((fault, AppendFault.LOST))
        if link.deposed:
            fault = AppendFault.LOST  # the other replicas do not acknowledge it
        if fault is not AppendFault.NONE:
            broker.trace(f"{link.name}: append of {len(payloads)}: {fault}")
        if fault is AppendFault.REFUSED:
            broker.later(arrival_ms, deliver, answer, AppendRefused("the broker refused the append"))
        elif fault is AppendFault.LATE:
            broker.later(arrival_ms + TIMEOUT_MS + rng.random() * _LATE_MS, self._append, payloads, answer, True)
        elif fault is AppendFault.SLOW:
            broker.later(arrival_ms + rng.random() * TIMEOUT_MS, self._append, payloads, answer, True)
        elif fault is not AppendFault.LOST:
            broker.later(arrival_ms, self._append, payloads, answer, fault is not AppendFault.UNANSWERED)
        if fault is AppendFault.TWICE:
            broker.later(
                arrival_ms + rng.choice((0.0, 1.0, _LATE_MS)) * rng.random(), self._append, payloads, answer, False
            )
        broker.later(TIMEOUT_MS, deliver, answer, AppendOutcomeUnknown("the broker did not answer in time"))
        return await answer

    def _append(self, payloads: Sequence[bytes], answer: asyncio.Future[Offset], answered: bool) -> None:
        base = self._broker.append(payloads)
        if answered:
            self._broker.later(self._broker.message_ms(), deliver, answer, base)

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
        broker.later(0, self._send_end, found)
        return await found

    def _send_end(self, found: asyncio.Future[Offset]) -> None:
        """Runs at the broker; the answer takes as long as any other message."""
        link = self._link
        end = min(self._broker.end, link.deposed_end) if link.deposed else self._broker.end
        self._broker.later(self._broker.message_ms(), deliver, found, end)

    async def close(self) -> None:
        pass


class SimReader:
    def __init__(self, link: Link, start: Offset) -> None:
        self._link = link
        self._inner = link.broker.log.reader(start)
        self._fetched: list[Entry] = []

    @property
    def reconnections(self) -> int:
        return self._inner.reconnections

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
