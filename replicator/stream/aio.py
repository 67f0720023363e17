"""An asynchronous iterator over the change stream, on aiokafka."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from types import TracebackType
from typing import Any, Self

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError, OffsetOutOfRangeError, TopicAuthorizationFailedError

from replicator.errors import BrokerUnavailable, ConfigError, LogDamage, ReplicatorError
from replicator.intervals import READER_TIMEOUT_MS
from replicator.limits import FETCH_BYTES, READ_CHANGES
from replicator.log.kafka.client_id import client_id_of
from replicator.log.kafka.failure_text import describe_failure
from replicator.log.kafka.security import PLAINTEXT, KafkaSecurity
from replicator.stream.change import Change
from replicator.stream.checkpoints import Checkpoints
from replicator.stream.consumer import denied_error, no_answer_error, trimmed_error
from replicator.stream.handlers import Handler, Handlers
from replicator.stream.kafka_access import KafkaAccess
from replicator.stream.opening import OpenedStream, open_stream
from replicator.stream.outage import OutageDetector
from replicator.stream.position import Start, StreamEnd, StreamPosition
from replicator.stream.read_ahead import ReadAhead
from replicator.stream.topic_check import TopicCheck

logger = logging.getLogger(__name__)

_POLL_S = 0.5
_FETCH_WAIT_MS = 100

Within = Callable[[], AbstractAsyncContextManager[object]]


class ChangeStream:
    """Reads what is committed. Iterating waits for the next change, also while Kafka does not answer.

    It is open inside of `async with`; iterating opens and closes it by itself. For one task at a time.
    """

    def __init__(
        self,
        bootstrap: str,
        cluster: str,
        start: Start = StreamEnd.EARLIEST,
        *,
        follow: bool = True,
        security: KafkaSecurity = PLAINTEXT,
        consumer: str = "consumer",
    ) -> None:
        """`follow` False: up to the last change that is published when the stream is opened.

        `consumer`: its name, part of the `client.id`; `run` keeps its checkpoint under it.
        """
        self._kafka = KafkaAccess(bootstrap, cluster, None, security)
        self._start = start
        self._follow = follow
        self._name = consumer
        self._handlers = Handlers()
        self._reader: _Reader | None = None
        self._is_open = False

    async def open(self) -> None:
        """Raises `ConfigError` (there is no change stream), `LogTrimmed` (the position was deleted), `LogDamage` (it is
        of another stream), `BrokerUnavailable`.
        """
        if self._is_open:
            raise ConfigError("the change stream is open already: open another one for another task")
        opened = await asyncio.to_thread(open_stream, self._kafka, self._start)
        reader = _Reader(self._kafka, self._name, opened, follow=self._follow)
        await reader.start()
        self._reader, self._is_open = reader, True

    async def close(self) -> None:
        if self._is_open and self._reader is not None:
            self._is_open = False
            await self._reader.stop()

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(
        self, type: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    @property
    def position(self) -> StreamPosition:
        """After the last change that was returned. Raises `ConfigError` if the stream was never open."""
        return self._known.ahead.position

    @property
    def has_ended(self) -> bool:
        """Without `follow`: all changes were returned."""
        return self._known.ahead.has_ended

    def lag(self) -> int:
        """Messages that were not returned yet, as far as it is known."""
        return self._known.lag()

    async def __aiter__(self) -> AsyncIterator[Change]:
        """Raises as `open`, and `LogTrimmed`, `LogDamage`, `ConfigError` later on; so do `transactions` and `run`."""
        async with self._opened() as reader:
            while await reader.wait():
                for change in reader.ahead.take(1):
                    yield change

    async def transactions(self) -> AsyncIterator[list[Change]]:
        """The changes of one transaction after another; of a snapshot, one change after another.

        From the earliest change or a time on, a transaction whose first changes are not part of that is left out.
        Raises `ConfigError` if the topic has several partitions or is compacted, or the position is inside of a
        transaction.
        """
        async with self._opened() as reader:
            reader.ahead.check_transactions()
            while await reader.wait():
                while (changes := reader.ahead.take_transaction()) is None:
                    await reader.fetch_patiently()
                yield changes

    async def read(self, limit: int, timeout_s: float | None = None) -> list[Change]:
        """At least one change and at most `limit`; none after the time-out, or at the end.

        Raises `BrokerUnavailable` (call it again), `LogTrimmed`, `LogDamage`, `ConfigError` (also if the stream is not
        open).
        """
        if not self._is_open:
            raise ConfigError("the change stream is not open: read inside of `async with`")
        reader = self._known
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        while not reader.ahead and not reader.ahead.has_ended:
            left_s = _POLL_S if deadline is None else min(_POLL_S, max(0.0, deadline - time.monotonic()))
            await reader.fetch(left_s)
            if deadline is not None and time.monotonic() >= deadline:
                break
        return reader.ahead.take(limit)

    def on_table(self, table: str, *, rows: str | bytes = b"*") -> Callable[[Handler], Handler]:
        """A decorator: `run` awaits the function for each change of the table whose row matches `rows`.

        The table is `kv`, or a SQL table as CREATE TABLE names it, whose rows are primary keys as JSON. Patterns are
        those of KEYS in Redis. Raises `BadRequest` (too long a pattern).
        """
        return self._handlers.on_table(table, rows=rows)

    async def run(self, *, checkpoints: Checkpoints | None = None, within: Within | None = None) -> None:
        """Open the stream, and await the handlers for each change, one after another, until it is cancelled or ends.

        With `checkpoints`, it begins at the checkpoint of the consumer, if there is one, and saves the position after
        some changes; after a crash these changes are handled again. `within` is entered for these changes and the
        position together: a transaction of the database makes this exactly once.

        Raises what a handler raises, `BadRequest` (another process has the same name), and as `open` and `__aiter__`.
        """
        stored = None if checkpoints is None else await checkpoints.load(self._name)
        if stored is not None:
            self._start = stored
        async with self:
            reader = self._known
            while await reader.wait():
                await reader.confirm_patiently()
                async with within() if within is not None else nullcontext():
                    for change in reader.ahead.take(READ_CHANGES):
                        await self._handlers.handle(change)
                    if checkpoints is not None:
                        position = self.position
                        await checkpoints.save(self._name, position, after=stored)
                        stored = position

    @property
    def _known(self) -> _Reader:
        if self._reader is None:
            raise ConfigError("the change stream is not open: use `async with`, or iterate")
        return self._reader

    @asynccontextmanager
    async def _opened(self) -> AsyncIterator[_Reader]:
        """Open it, unless it is open."""
        if self._is_open:
            yield self._known
        else:
            async with self:
                yield self._known


class _Reader:
    """The consumer of an open stream."""

    def __init__(self, kafka: KafkaAccess, consumer: str, opened: OpenedStream, *, follow: bool) -> None:
        """Raises `ConfigError`."""
        self.ahead = ReadAhead(opened, follow=follow)
        self._kafka = kafka
        self._topic = opened.topic
        self._partitions = [TopicPartition(opened.topic, number) for number in opened.partitions]
        self._failure: ReplicatorError | None = None  # after which there is nothing to read any more
        self._outage = OutageDetector(READER_TIMEOUT_MS / 1000)
        self._check = TopicCheck(kafka, opened.settings.topic_id)
        self._unchecked: dict[TopicPartition, list[Any]] = {}  # fetched, and perhaps of another topic of the same name
        self._out_of_range: int | None = None  # a partition, of this topic or another one
        self._is_confirmed = True  # that everything in `ahead` is of this topic
        self._consumer: Any = AIOKafkaConsumer(
            bootstrap_servers=kafka.bootstrap,
            client_id=client_id_of(kafka.cluster, None, consumer),
            group_id=None,
            enable_auto_commit=False,
            auto_offset_reset="none",
            isolation_level="read_committed",
            fetch_max_wait_ms=_FETCH_WAIT_MS,
            max_partition_fetch_bytes=FETCH_BYTES,
            **kafka.security.for_aiokafka(),
        )

    async def start(self) -> None:
        """Raises `BrokerUnavailable`."""
        try:
            await self._consumer.start()
        except (KafkaError, OSError) as error:
            await self._consumer.stop()
            why = describe_failure(error, READER_TIMEOUT_MS)
            raise BrokerUnavailable(f"Kafka at {self._kafka.bootstrap} does not answer: {why}") from error
        self._consumer.assign(self._partitions)
        for partition, offset in zip(self._partitions, self.ahead.position.next_offsets, strict=True):
            self._consumer.seek(partition, offset)
        await asyncio.sleep(0)  # aiokafka cannot stop a consumer whose tasks have not begun

    async def stop(self) -> None:
        await self._consumer.stop()

    def lag(self) -> int:
        return self.ahead.lag(self._consumer.last_stable_offset(partition) or 0 for partition in self._partitions)

    async def wait(self) -> bool:
        """Until there are changes; False at the end."""
        while not self.ahead:
            if self.ahead.has_ended:
                return False
            await self.fetch_patiently()
        return True

    async def fetch_patiently(self) -> None:
        try:
            await self.fetch(_POLL_S)
        except BrokerUnavailable as error:
            if self._outage.is_new:
                logger.warning("%s: waiting", error)

    async def confirm_patiently(self) -> None:
        """All that was fetched is of the topic that was opened. Raises `LogDamage`, `ConfigError`."""
        while not self._is_confirmed:
            try:
                await self._confirm()
            except BrokerUnavailable as error:
                if self._outage.is_new:
                    logger.warning("%s: waiting", error)

    async def fetch(self, timeout_s: float) -> None:
        """What there is, or what comes within the time. Raises as `ChangeStream.read`."""
        if self._failure is not None:
            raise self._failure
        begun_s = time.monotonic()
        if not self._unchecked and self._out_of_range is None:
            await self._get(timeout_s)
        await self._check_topic()
        if self._out_of_range is not None:
            self._failure = trimmed_error(self._topic, self._out_of_range)
            raise self._failure
        found, self._unchecked = self._unchecked, {}
        for partition, messages in found.items():
            for message in messages:
                self.ahead.add(partition.partition, message.offset, message.value)
        for partition in self._partitions:  # past markers of transactions
            self.ahead.passed(partition.partition, await self._consumer.position(partition))
        polled_ms = max((self._consumer.last_poll_timestamp(it) or 0) for it in self._partitions)
        if self._outage.is_outage(bool(found), polled_ms, time.monotonic() - begun_s):
            raise no_answer_error(self._kafka)

    async def _get(self, timeout_s: float) -> None:
        try:
            self._unchecked = await self._consumer.getmany(timeout_ms=int(timeout_s * 1000), max_records=READ_CHANGES)
        except OffsetOutOfRangeError as error:
            self._out_of_range = min(it.partition for it in error.args[0])
        except TopicAuthorizationFailedError:
            self._failure = denied_error(self._kafka)
            raise self._failure from None
        self._is_confirmed &= not self._unchecked

    async def _check_topic(self) -> None:
        """From time to time, and if an offset may be of another topic. Raises as `fetch`."""
        if self._out_of_range is not None or (self._unchecked and self._check.is_due):
            await self._confirm()
        elif not self._unchecked:
            try:
                self._check.poll()
            except LogDamage as error:
                self._failure = error
                raise

    async def _confirm(self) -> None:
        """Raises `LogDamage`, `BrokerUnavailable`, `ConfigError`."""
        try:
            await asyncio.to_thread(self._check.confirm)
        except (LogDamage, ConfigError) as error:
            self._failure = error
            raise
        except BrokerUnavailable:
            self._outage.note_report()
            raise
        self._is_confirmed = True
