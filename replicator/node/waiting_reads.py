"""Reads that have to wait: futures of views, each of which ends within `read_ms`."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

from replicator.node.context import NodeContext
from replicator.node.read_index import read_timed_out
from replicator.position import Offset, Token
from replicator.protocol.levels import check_timeline
from replicator.store.view import View


class WaitingReads:
    def __init__(self, context: NodeContext) -> None:
        self._context = context
        self._tasks: set[asyncio.Task[View]] = set()

    def start(self, work: Coroutine[Any, Any, View]) -> asyncio.Future[View]:
        """The future raises `Stale` after `read_ms`."""
        task = asyncio.get_running_loop().create_task(self._within_time(work))
        self._tasks.add(task)
        task.add_done_callback(self._forget)
        return task

    def session_view(self, token: Token, store: View) -> View | asyncio.Future[View]:
        """`store`, once it has reached the token. Raises `Stale` if the token is of another timeline."""
        state = self._context.replica.state
        if state.timeline:  # otherwise this node has read nothing yet
            check_timeline(token, state.timeline.hex())
        if state.offset >= token.offset:
            return store
        return self.start(self._applied(token, store))

    async def _applied(self, token: Token, store: View) -> View:
        replica = self._context.replica
        await replica.changed(since=Offset(token.offset - 1))  # a token may be of an offset beyond the log
        check_timeline(token, replica.state.timeline.hex())
        return store

    async def _within_time(self, work: Coroutine[Any, Any, View]) -> View:
        try:
            async with asyncio.timeout(self._context.timeouts.read_ms / 1000):
                return await work
        except TimeoutError:
            raise read_timed_out(self._context) from None

    def _forget(self, task: asyncio.Task[View]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # nobody may be waiting any more
