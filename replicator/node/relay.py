"""A follower passes on the records that it applies and heartbeats to its followers, and acks to its upstream.

It also reports its downstream processes to its upstream: those that it sends records to, directly or through others. So
each node knows all of them. A process that finds itself among them ends that stream (`ReplicationBacklog`): nodes in a
loop would receive no records.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Container, Iterator, Mapping, Sequence

from replicator.errors import BrokerUnavailable
from replicator.intervals import FEED_POLL_MS
from replicator.log.port import Acks
from replicator.node.background import run_with_background
from replicator.node.backlog import ReplicationBacklog
from replicator.node.clock import Clock
from replicator.node.committed_batch import CommittedBatch
from replicator.node.node_link import RecordStream, StreamSignal
from replicator.node.record_source import RecordSource
from replicator.node.replica import Accepted, Replica
from replicator.position import Author
from replicator.records.codec import AckCodec, NotARecord
from replicator.records.types import Claim

logger = logging.getLogger(__name__)


class Relay:
    def __init__(
        self,
        author: Author,
        backlog: ReplicationBacklog,
        replica: Replica,
        source: RecordSource,
        acks: Acks,
        clock: Clock,
    ) -> None:
        self._author = author
        self._clock = clock
        self._backlog = backlog
        self._replica = replica
        self._source = source
        self._acks = acks
        self._codec = AckCodec()
        self._received: dict[Author, bytes] = {}  # the last ack of each downstream process, if it is not passed on yet
        self._has_received = asyncio.Event()
        self._sends = False
        self._reported: tuple[RecordStream | None, Mapping[Author, int]] = None, {}  # to which upstream, and what

    async def run(self) -> None:
        """Run until cancelled. Records are passed on once the store is known to hold what the log does."""
        await self._source.compared.wait()
        with self._backlog.term(self._replica.state, leads=False):
            self._sends = True
            try:
                await run_with_background(
                    self._pass_on_acks(), self._report_changes(), *([self._feed()] if self._backlog.uses_disk else [])
                )
            finally:
                self._sends = False

    def applied(self, accepted: Sequence[Accepted]) -> None:
        """These records were applied to the store."""
        if not self._sends or not accepted:
            return
        claims = [at for at, it in enumerate(accepted) if type(it.record.body) is Claim]
        if claims:
            self._begin_term(accepted[claims[-1]])
        first = claims[-1] + 1 if claims else 0
        for batch in _batches(accepted[first:]):
            self._backlog.add(batch)

    def _begin_term(self, claim: Accepted) -> None:
        _, (header, body, _), end = claim
        assert isinstance(body, Claim)
        if body.leader == self._author:
            self._backlog.stop()  # until it appends
        else:
            self._backlog.restart(header.timeline, body.epoch, end)

    def received(self, signal: StreamSignal) -> None:
        """The upstream has sent a signal, or a stream has begun after Kafka was read."""
        self._report_downstream()
        if signal is StreamSignal.HEARTBEAT:
            self._backlog.send_heartbeats()
        else:
            self._backlog.request_acks()

    def pass_on(self, acks: Sequence[bytes], senders: Container[Author]) -> None:
        """Acks from a stream that carries those of `senders`. The last one of each is passed on, with the others."""
        for payload in acks:
            try:
                author = self._codec.decode(payload).author
            except NotARecord as error:
                logger.warning("%s", error)
                continue
            if author in senders:
                self._received[author] = payload
        self._has_received.set()

    async def _pass_on_acks(self) -> None:
        while True:
            await self._has_received.wait()
            self._has_received.clear()
            acks, self._received = list(self._received.values()), {}
            stream = self._source.stream
            if stream is not None:
                self._report_downstream()  # only then does it accept their acks
                stream.ack(*acks)
                continue
            for ack in acks:
                try:
                    await self._acks.send(ack)
                except BrokerUnavailable:
                    break  # later acks make up for these

    async def _feed(self) -> None:
        """Send followers that are behind what they lack, as fast as they read it."""
        backlog = self._backlog
        while True:
            await backlog.has_behind.wait()
            if backlog.feed():
                await asyncio.sleep(0)
            else:
                await self._clock.sleep(FEED_POLL_MS)

    async def _report_changes(self) -> None:
        changed = self._backlog.receivers_changed
        while True:
            await changed.wait()
            changed.clear()
            self._report_downstream()

    def _report_downstream(self) -> None:
        """To the upstream, if that does not know it."""
        stream, downstream = self._source.stream, self._backlog.receivers
        if self._reported[0] is not stream:
            self._reported = stream, {}
        if stream is not None and downstream != self._reported[1]:
            stream.report_downstream(downstream)
            self._reported = stream, downstream


def _batches(accepted: Sequence[Accepted]) -> Iterator[CommittedBatch]:
    """One for each run of consecutive offsets: the log may have void entries between them."""
    first = 0
    for at in range(1, len(accepted) + 1):
        if at == len(accepted) or accepted[at].entry.offset != accepted[at - 1].entry.offset + 1:
            run = accepted[first:at]
            yield CommittedBatch(run[0].entry.offset, [it.entry.payload for it in run], [it.end for it in run])
            first = at
