"""The connections of one process to the simulated brokers. Above them, the process runs `log.kafka` as it is."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from replicator.address import Address
from replicator.errors import BrokerUnavailable
from replicator.log.kafka.brokers import Brokers
from replicator.log.kafka.log import KafkaLog
from replicator.log.kafka.metadata import TopicMetadataRequest
from replicator.log.kafka.options import KafkaOptions
from replicator.log.kafka.partition import OFFSET_OUT_OF_RANGE
from replicator.log.kafka.partition_leader import LeaderLookup
from replicator.log.kafka.requests import (
    EARLIEST,
    PARTITION,
    Fetch,
    FetchedRecords,
    ListedOffset,
    ListOffsets,
    Produce,
    Produced,
)
from replicator.log.kafka.topic_answers import PartitionLeader
from replicator.log.kafka.topic_monitor import TopicMonitor
from replicator.position import Offset
from replicator.testing.faults import AppendFault
from replicator.testing.kafka import TOPIC_ID, Kafka, deliver
from replicator.testing.link import Link
from replicator.testing.partition import Replica

APPEND_TIMEOUT_MS = 400  # after which the outcome of an append without an answer is unknown

_TOPIC = "simulated.wal"
_NONE, _NOT_LEADER, _NOT_ENOUGH_REPLICAS, _FENCED_EPOCH, _UNKNOWN_EPOCH = 0, 6, 19, 74, 75
_LATE_MS = 3000.0
_MAX_BATCHES = 20
_RECORDS_AT = 57  # position of the number of records in an encoded batch
_NEVER_MS = 10**9


def open_log(link: Link) -> KafkaLog:
    """Call it in the process of the link."""
    kafka = link.kafka
    options = KafkaOptions(
        append_timeout_ms=APPEND_TIMEOUT_MS,
        offsets_timeout_ms=APPEND_TIMEOUT_MS,
        reader_timeout_ms=kafka.rng.choice((300, 5000)),
        leader_check_ms=kafka.rng.choice((500, 2000)),
        identity_check_ms=_NEVER_MS,
    )
    lookup = SimLookup(link)
    log = KafkaLog(lookup, TopicMonitor(_TOPIC, TOPIC_ID, _topic_id, options.identity_check_ms), options)
    lookup.watch(options.leader_check_ms)
    return log


async def _topic_id(topic: str) -> str:
    return TOPIC_ID


def _address(broker: int) -> Address:
    return Address(f"b{broker}", 9092)


class SimLookup(LeaderLookup):
    def __init__(self, link: Link) -> None:
        self._link = link
        super().__init__(SimBrokers(link), _TOPIC, TOPIC_ID)

    async def find(self) -> PartitionLeader:
        if self._link.cut:
            raise BrokerUnavailable("this process was killed")
        return await super().find()


class SimBrokers(Brokers):
    def __init__(self, link: Link) -> None:
        self._link = link
        self._replicas = {_address(it.broker): it for it in link.kafka.partition.replicas}
        super().__init__(",".join(map(str, self._replicas)))

    async def connect(self, address: Address, timeout_ms: int) -> SimConnection:
        link, kafka, replica = self._link, self._link.kafka, self._replicas[address]
        await asyncio.sleep(kafka.message_ms() / 1000)
        down_ms = link.down_ms(replica)
        if down_ms and kafka.rng.random() < 0.5:
            raise ConnectionRefusedError("the connection is refused")
        await asyncio.sleep(min(down_ms, timeout_ms) / 1000)
        if down_ms > timeout_ms:
            raise TimeoutError
        return SimConnection(link, replica)

    async def connect_to_partition(self, address: Address, timeout_ms: int) -> SimConnection:
        return await self.connect(address, timeout_ms)


class SimConnection:
    """To one broker. Takes requests as `log.kafka.partition` and `log.kafka.brokers` make them."""

    def __init__(self, link: Link, replica: Replica) -> None:
        self._link = link
        self._kafka: Kafka = link.kafka
        self._replica = replica
        self._restarts = replica.restarts
        self._open = True
        self._unanswered: dict[asyncio.Future[Any], None] = {}
        self._execute: dict[type, Callable[[Any, asyncio.Future[Any]], None]] = {
            Produce: self._produce,
            Fetch: self._fetch,
            ListOffsets: self._list_offsets,
            TopicMetadataRequest: self._describe,
        }

    def connected(self) -> bool:
        return self._open

    def close(self) -> None:
        self._open = False
        for answer in self._unanswered:
            deliver(answer, ConnectionResetError("the connection was closed"))
        self._unanswered.clear()

    async def send(self, request: Any) -> Any:
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._unanswered[answer] = None
        if not self._link.cut:
            self._kafka.later(self._kafka.message_ms(), self._arrive, request, answer)
        try:
            return await answer
        finally:
            self._unanswered.pop(answer, None)

    def _arrive(self, request: Any, answer: asyncio.Future[Any]) -> None:
        """If the broker cannot be reached, the request waits for it, or is lost with its connection."""
        if self._is_broken():
            return
        down_ms = self._link.down_ms(self._replica)
        if not down_ms:
            self._execute[type(request)](request, answer)
            return
        if self._kafka.rng.random() < 0.5:
            self.close()
        else:
            self._kafka.later(down_ms, self._execute[type(request)], request, answer)

    def _is_broken(self) -> bool:
        """Whether the broker has restarted since. The process learns of it now."""
        if self._restarts != self._replica.restarts:
            self.close()
        return not self._open

    def _answer(self, answer: asyncio.Future[Any], response: object, *, delay_ms: float = 0.0) -> None:
        self._kafka.later(delay_ms + self._kafka.message_ms(), deliver, answer, response)

    # At the broker

    def _produce(self, request: Produce, answer: asyncio.Future[Any]) -> None:
        kafka, rng = self._kafka, self._kafka.rng
        batch = request.batch
        fault = kafka.faults.append_fault(rng)
        if fault is not AppendFault.NONE:
            kafka.trace(f"{self._link.name}: append: {fault}")
        match fault:
            case AppendFault.REFUSED:
                self._answer(answer, Produced(_NOT_ENOUGH_REPLICAS, Offset(-1)))
            case AppendFault.LOST:
                pass
            case AppendFault.LATE:
                kafka.later(APPEND_TIMEOUT_MS + rng.random() * _LATE_MS, self._append, batch, answer)
            case AppendFault.SLOW:
                kafka.later(rng.random() * APPEND_TIMEOUT_MS, self._append, batch, answer)
            case AppendFault.UNANSWERED:
                self._append(batch, None)
            case AppendFault.TWICE:
                if self._append(batch, answer):
                    kafka.later(rng.choice((0.0, 1.0, _LATE_MS)) * rng.random(), self._append, batch, None)
            case _:
                self._append(batch, answer)

    def _append(self, batch: bytes, answer: asyncio.Future[Any] | None) -> bool:
        """Whether it is in the log now."""
        partition, replica = self._kafka.partition, self._replica
        code, base = _NONE, Offset(-1)
        if self._restarts != replica.restarts:
            return False  # the broker lost it when it stopped
        if not replica.leads:
            code = _NOT_LEADER
        elif replica is not partition.leader:
            return False  # it waits for replicas that follow another leader
        elif not partition.accepts_appends:
            code = _NOT_ENOUGH_REPLICAS
        else:
            records = int.from_bytes(batch[_RECORDS_AT : _RECORDS_AT + 4], "big")
            base = partition.append(batch, records, self._kafka.loop.time())
        if answer is not None:
            self._answer(answer, Produced(code, base))
        return code == _NONE

    def _fetch(self, request: Fetch, answer: asyncio.Future[Any]) -> None:
        """Without records to return, it waits for them as long as the request says."""
        kafka, replica = self._kafka, self._replica
        offset = request.offset
        fails = kafka.rng.random() < kafka.faults.read_fails
        timer: asyncio.TimerHandle | None = None

        def execute() -> None:
            nonlocal timer
            if self._is_broken():
                return
            stalled_ms = (self._link.stalled_until_s - kafka.loop.time()) * 1000
            if stalled_ms > 0:
                kafka.later(stalled_ms, execute)
            elif offset == replica.end and replica.leads and not fails and timer is None:
                timer = kafka.later(request.max_wait_ms, give_up)
                replica.waiting.append(execute)
            else:
                if timer is not None:
                    timer.cancel()
                self._answer_fetch(answer, offset, request.epoch, fails)

        def give_up() -> None:
            if execute in replica.waiting:
                replica.waiting.remove(execute)
                execute()

        execute()

    def _answer_fetch(self, answer: asyncio.Future[Any], offset: Offset, epoch: int, fails: bool) -> None:
        kafka, replica = self._kafka, self._replica
        if (code := _NOT_LEADER if fails else self._refusal(epoch)) != _NONE:
            self._answer(answer, FetchedRecords(code, b""))
        elif offset > replica.end:
            self._answer(answer, FetchedRecords(OFFSET_OUT_OF_RANGE, b""))
        else:
            batches = replica.log.from_offset(offset, replica.end, kafka.rng.randint(1, _MAX_BATCHES))
            encoded = b"".join(batch.encoded for batch in batches)
            self._answer(answer, FetchedRecords(_NONE, encoded), delay_ms=kafka.rng.random() * self._link.lag_ms)

    def _list_offsets(self, request: ListOffsets, answer: asyncio.Future[Any]) -> None:
        earliest = request.which == EARLIEST
        code = self._refusal(request.epoch)
        if not earliest and self._kafka.rng.random() < self._kafka.faults.end_fails:
            code = _NOT_LEADER
        end = Offset(0) if earliest else self._replica.end
        self._answer(answer, ListedOffset(code, Offset(-1) if code else end))

    def _refusal(self, epoch: int) -> int:
        """Of a request to the leader of that epoch (KIP-320)."""
        if not self._replica.leads:
            return _NOT_LEADER
        if epoch == self._replica.epoch:
            return _NONE
        return _FENCED_EPOCH if epoch < self._replica.epoch else _UNKNOWN_EPOCH

    def _describe(self, request: TopicMetadataRequest, answer: asyncio.Future[Any]) -> None:
        replica = self._replica
        brokers: list[tuple[Any, ...]] = []
        for it in self._kafka.partition.replicas:
            address = _address(it.broker)
            brokers.append((it.broker, address.host, address.port, None, {}))
        partition: tuple[Any, ...] = (_NONE, PARTITION, replica.leader, replica.epoch, [], [], [], {})
        topic: tuple[Any, ...] = (_NONE, _TOPIC, TOPIC_ID, False, [partition], 0, {})
        response = SimpleNamespace(cluster_id="simulated", brokers=brokers, topics=[topic])
        self._kafka.later(self._kafka.message_ms(), deliver, answer, response)
