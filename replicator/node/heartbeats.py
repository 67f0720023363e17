"""Heartbeats of an idle leader: in the log, and over the streams while it is quiet (`protocol.pace`)."""

from __future__ import annotations

import asyncio
import contextlib

from replicator.intervals import TIMING_POLL_MS
from replicator.node.appending import Appender, AppendState
from replicator.node.backlog import ReplicationBacklog
from replicator.node.context import NodeContext
from replicator.node.replica_progress import ReplicaProgress
from replicator.protocol.pace import followers_answer, stream_interval_ms
from replicator.records.types import Heartbeat

ACK_SHARE = 1 / 4
"""The part of the interval between two heartbeats for which an idle leader waits for acks before it is quiet."""


class Heartbeats:
    def __init__(
        self, context: NodeContext, appender: Appender, backlog: ReplicationBacklog, progress: ReplicaProgress
    ) -> None:
        self._context = context
        self._appender = appender
        self._backlog = backlog
        self._progress = progress
        self._used_ms = appender.sent_ms  # when something last needed the lease

    def note_use(self, at_ms: float) -> None:
        """Something other than a heartbeat was appended."""
        self._used_ms = at_ms

    async def run(self) -> None:
        """Run until cancelled."""
        try:
            await self._run()
        finally:
            self._context.roles.is_quiet = False

    async def _run(self) -> None:
        context, appender, roles = self._context, self._appender, self._context.roles
        while True:
            heartbeat_ms = context.timing.heartbeat_ms
            due_ms = appender.sent_ms + heartbeat_ms
            now_ms = context.clock.elapsed_ms()
            if now_ms < due_ms:
                await context.clock.sleep(min(due_ms - now_ms, TIMING_POLL_MS))
            elif appender.state is AppendState.IN_FLIGHT:
                roles.is_quiet = False
                await context.clock.sleep(min(heartbeat_ms, TIMING_POLL_MS))
            elif now_ms - self._used_ms >= context.pace.quiet_after_ms:
                await self._append_unless_quiet()
            else:
                roles.is_quiet = False
                self._append(now_ms)

    def _append(self, now_ms: float) -> None:
        self._context.enqueue_own(Heartbeat())
        self._appender.sent_ms = now_ms

    async def _append_unless_quiet(self) -> None:
        context, appender, roles = self._context, self._appender, self._context.roles
        sent_ms = appender.sent_ms
        self._backlog.request_acks()
        await context.clock.sleep(stream_interval_ms(context.timing) * ACK_SHARE)
        roles.is_quiet = self._followers_answer()
        if roles.is_quiet:
            await self._stay_quiet(sent_ms)
        if appender.sent_ms == sent_ms:
            self._append(context.clock.elapsed_ms())

    def _followers_answer(self) -> bool:
        context, streams = self._context, self._backlog.followers()
        acked_ms = {author: at_ms for author, at_ms in self._progress.streamed_ms.items() if author in streams}
        membership = context.replica.machine.meta.membership
        return followers_answer(membership, context.author, acked_ms, context.clock.elapsed_ms(), context.timing)

    async def _stay_quiet(self, sent_ms: float) -> None:
        """Until anything is appended after `sent_ms`, or a heartbeat is due.

        It is due after the interval, for a read, or because a follower does not ack.
        """
        context, appender, needed = self._context, self._appender, self._context.roles.lease_needed
        due_ms = sent_ms + context.pace.log_interval_ms(context.timing)
        needed.clear()
        while appender.sent_ms == sent_ms and context.clock.elapsed_ms() < due_ms and self._followers_answer():
            self._backlog.send_heartbeats()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(stream_interval_ms(context.timing) / 1000):
                    await needed.wait()
            if needed.is_set():
                self._used_ms = context.clock.elapsed_ms()
                return
