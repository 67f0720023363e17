"""Heartbeats of a leader without writes: in the log, and over the streams while it is idle (`protocol.pace`)."""

from __future__ import annotations

import asyncio
import contextlib
from math import inf

from replicator.errors import BrokerUnavailable
from replicator.intervals import TIMING_POLL_MS
from replicator.node.appending import Appender, AppendState
from replicator.node.backlog import ReplicationBacklog
from replicator.node.context import NodeContext
from replicator.node.replica_progress import ReplicaProgress
from replicator.position import Offset
from replicator.protocol.pace import stream_interval_ms
from replicator.records.types import Heartbeat


class Heartbeats:
    def __init__(
        self, context: NodeContext, appender: Appender, backlog: ReplicationBacklog, progress: ReplicaProgress
    ) -> None:
        self._context = context
        self._appender = appender
        self._backlog = backlog
        self._progress = progress
        self._used_ms = appender.sent_ms  # when something last used the lease, as far as is known
        self._asked_ms = inf  # when all followers were last asked for an ack; inf: not since the leader was in use

    def note_use(self, at_ms: float) -> None:
        """Something other than a heartbeat was appended, or an append was refused."""
        self._used_ms = at_ms

    async def run(self) -> None:
        """Run until cancelled. Raises `LogDamage`."""
        context, appender, roles = self._context, self._appender, self._context.roles
        while True:
            heartbeat_ms = context.timing.heartbeat_ms
            due_ms = appender.sent_ms + heartbeat_ms
            now_ms = context.clock.elapsed_ms()
            if now_ms < due_ms:
                await context.clock.sleep(min(due_ms - now_ms, TIMING_POLL_MS))
            elif appender.state is AppendState.IN_FLIGHT:
                roles.idle_ended()
                await context.clock.sleep(min(heartbeat_ms, TIMING_POLL_MS))
            elif self._is_in_use(now_ms):
                self._asked_ms = inf
                self._append(now_ms)
            else:
                await self._append_unless_idle(now_ms)

    def _is_in_use(self, now_ms: float) -> bool:
        roles = self._context.roles
        if roles.lease_used:
            roles.lease_used = False
            self._used_ms = now_ms
        return now_ms - self._used_ms < self._context.pace.idle_after_ms or roles.delays_writes()

    def _append(self, now_ms: float) -> None:
        self._context.enqueue_own(Heartbeat())
        self._appender.sent_ms = now_ms

    async def _append_unless_idle(self, now_ms: float) -> None:
        sent_ms = self._appender.sent_ms
        answered = self._followers_answer(self._asked_ms)
        self._asked_ms = now_ms
        self._backlog.request_acks()
        if answered:
            self._context.roles.idle_began()
            await self._send_over_streams(now_ms)
            now_ms = self._context.clock.elapsed_ms()
        if self._appender.sent_ms == sent_ms:
            self._append(now_ms)

    async def _send_over_streams(self, now_ms: float) -> None:
        """Until something is appended, or a heartbeat in the log is due.

        It is due after the interval, for a read, or because a follower or Kafka does not answer.
        """
        context, appender, needed = self._context, self._appender, self._context.roles.lease_needed
        sent_ms, before_ms = appender.sent_ms, self._asked_ms
        needed.clear()
        while now_ms < sent_ms + context.pace.log_interval_ms(context.timing):
            self._backlog.send_heartbeats()
            interval_ms = min(stream_interval_ms(context.timing), TIMING_POLL_MS)
            kafka_answers = await self._kafka_answers(interval_ms)
            if needed.is_set():
                context.roles.lease_used = True
                return
            if not kafka_answers or appender.sent_ms != sent_ms or not self._followers_answer(before_ms):
                return
            before_ms = self._asked_ms = now_ms
            now_ms = context.clock.elapsed_ms()

    async def _kafka_answers(self, interval_ms: float) -> bool:
        """Wait for the interval, or for a read. Returns whether Kafka has reported that the log has not grown.

        A broker that was deposed as leader of the partition may report it: this is no proof, but it shows an outage.
        """
        context = self._context
        asking = asyncio.ensure_future(context.log.end())
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(interval_ms / 1000):
                    await context.roles.lease_needed.wait()
            if not asking.done():
                return False
            return asking.result() == Offset(context.replica.state.offset + 1)
        except BrokerUnavailable:
            return False
        finally:
            asking.cancel()

    def _followers_answer(self, since_ms: float) -> bool:
        """Whether all other members have acked over their streams since then.

        The applied membership is the committed one: this leader has appended nothing else for some time.
        """
        context, receivers, progress = self._context, self._backlog.receivers.keys(), self._progress
        authors = {member.author for member in context.replica.machine.meta.membership.members} - {context.author}
        return authors <= receivers and all(progress.streamed_ms(author) >= since_ms for author in authors)
