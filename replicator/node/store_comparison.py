"""Compares the stores of all replicas at one checkpoint in the log, while writes go on (`replicator verify`).

A program asks every node to keep its state at the next checkpoints (`begin`), the leader to append one (`checkpoint`),
and then each node for digests of ranges of keys in that state, smaller and smaller ones where they differ. A state is
a read transaction of LMDB, so it costs the pages that are replaced meanwhile: it is kept for as long as requests come,
and the newest few only. The work of a request is bounded, and done in slices.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from itertools import pairwise
from typing import NamedTuple

from replicator.errors import BadRequest, Busy
from replicator.intervals import COMPARISON_SLICE_MS, COMPARISON_TIMEOUT_S
from replicator.limits import (
    COMPARED_ENTRIES,
    COMPARED_RANGE_ENTRIES,
    COMPARED_RANGES,
    COMPARISON_RESERVE_BYTES,
    MAX_KEY_BYTES,
)
from replicator.node.client_writes import check_leads
from replicator.node.context import NodeContext
from replicator.node.writes import PendingWrite
from replicator.position import Offset
from replicator.store.digest import DIGEST_MASK, entry_digest
from replicator.store.view import SnapshotEnded, View

KEPT_STATES = 3
SLICE = 256  # entries
END = b"\xff"  # above every key


class RangeDigest(NamedTuple):
    digest: int  # of its entries, as `store.digest`
    entries: int
    is_complete: bool  # False: it has more than so many


class KeyRange(NamedTuple):
    start: bytes
    stop: bytes  # exclusive; `END`: none
    digest: RangeDigest


class EntryDigest(NamedTuple):
    key: bytes
    digest: int


class KeptState(NamedTuple):
    digest: int  # that the store itself had
    entries: int
    view: View
    context: AbstractContextManager[View]

    def close(self) -> None:
        self.context.__exit__(None, None, None)


class StoreComparison:
    """Of one node. One comparison at a time."""

    def __init__(self, context: NodeContext) -> None:
        self._context = context
        self._hook = context.replica.checkpoints
        self._id = ""  # empty: there is no comparison
        self._states: dict[Offset, KeptState] = {}
        self._compared: Offset | None = None  # whose state was asked for last, and is kept; later ones replace others
        self._queued: dict[PendingWrite, KeptState] = {}  # of a leader, whose checkpoint is not in the log yet
        self._changed = asyncio.Event()
        self._expiry: asyncio.TimerHandle | None = None

    def begin(self, id: str) -> None:
        """Keep the state at each checkpoint from now on. Raises `Busy` if there is another comparison."""
        if self._id not in ("", id):
            raise Busy(f"the stores are being compared already: try again in {COMPARISON_TIMEOUT_S:.0f} s")
        self._context.replica.machine.reserve_for_copy(COMPARISON_RESERVE_BYTES)
        self._id = id
        self._hook.on_applied = self._keep_applied
        self._hook.on_queued = self._keep_queued
        self._touch()

    def end(self, id: str) -> None:
        if id == self._id:
            self._end()

    async def checkpoint(self, id: str) -> Offset:
        """Append a checkpoint. Returns its offset, once it is in the log. Raises `NotLeader`, `Busy`, `BadRequest`."""
        self._check(id)
        check_leads(self._context)
        self._hook.is_requested = True
        self._context.writes.arrived.set()
        while not self._queued:
            await self._wait_for_change()
            check_leads(self._context)
            self._check(id)
        pending = next(iter(self._queued))
        if pending.in_flight:
            await pending.applied_or_failed()
        state = self._queued.pop(pending, None)
        if state is None or pending.was_refused or pending.in_flight:
            if state is not None:
                state.close()
            raise Busy("the checkpoint was not appended, because the leader has changed or Kafka refused it: try again")
        self._keep(pending.offset, state)
        return pending.offset

    async def state(self, id: str, offset: Offset) -> KeptState | None:
        """The state at the checkpoint at this offset, for which it waits a little. None: it is not applied yet.

        Raises `Busy` (it is not kept), `BadRequest`.
        """
        self._check(id)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(COMPARISON_TIMEOUT_S / 10):
                await self._context.replica.applied(offset)
        return None if self._context.replica.state.offset < offset else self._state(id, offset)

    async def digests(self, id: str, offset: Offset, bounds: Sequence[bytes]) -> list[RangeDigest]:
        """Of the ranges between each two of `bounds`. Raises as `state`."""
        if len(bounds) > COMPARED_RANGES + 1:
            raise BadRequest(f"ask for {COMPARED_RANGES} ranges at a time")
        view = self._state(id, offset).view
        return [await _digest(view, start, stop or END) for start, stop in pairwise(bounds)]

    async def split(self, id: str, offset: Offset, start: bytes, stop: bytes, entries: int) -> list[KeyRange]:
        """Ranges of so many entries, beginning at `start`; the last one ends at `stop`, unless these are too many."""
        view, size = self._state(id, offset).view, max(1, min(entries, COMPARED_RANGE_ENTRIES))
        found: list[KeyRange] = []
        digest = count = 0
        async for key, value in _sliced(_scan(view, start, stop or END)):
            if count == size:
                found.append(KeyRange(start, key, RangeDigest(digest & DIGEST_MASK, count, True)))
                if len(found) == COMPARED_RANGES:
                    return found
                start, digest, count = key, 0, 0
            digest += entry_digest(key, value)
            count += 1
        found.append(KeyRange(start, stop or END, RangeDigest(digest & DIGEST_MASK, count, True)))
        return found

    async def entries(
        self, id: str, offset: Offset, start: bytes, stop: bytes, limit: int
    ) -> tuple[list[EntryDigest], bool]:
        """The first entries of a range, and whether these are all."""
        view, most = self._state(id, offset).view, max(1, min(limit, COMPARED_ENTRIES))
        found: list[EntryDigest] = []
        async for key, value in _sliced(_scan(view, start, stop or END)):
            if len(found) == most:
                return found, False
            found.append(EntryDigest(key, entry_digest(key, value)))
        return found, True

    def _check(self, id: str) -> None:
        if not id or id != self._id:
            raise BadRequest("this comparison has ended, or was never begun: run `replicator verify` again")
        self._touch()

    def _state(self, id: str, offset: Offset) -> KeptState:
        self._check(id)
        state = self._states.get(offset)
        self._compared = offset
        if state is None:
            raise Busy(f"this node does not have its state at offset {offset} any more: run `replicator verify` again")
        return state

    def _keep_applied(self, offset: Offset) -> None:
        self._keep(offset, self._open())

    def _keep_queued(self, pending: PendingWrite) -> None:
        for former in self._queued.values():
            former.close()
        self._queued = {pending: self._open()}
        self._changed.set()

    def _open(self) -> KeptState:
        machine = self._context.replica.machine
        context = machine.view.snapshot()
        return KeptState(machine.meta.digest, machine.meta.entries, context.__enter__(), context)

    def _keep(self, offset: Offset, state: KeptState) -> None:
        self._states[offset] = state
        while len(self._states) > KEPT_STATES:
            self._states.pop(min(it for it in self._states if it != self._compared)).close()
        self._changed.set()

    async def _wait_for_change(self) -> None:
        self._changed.clear()
        try:
            async with asyncio.timeout(COMPARISON_TIMEOUT_S / 3):
                await self._changed.wait()
        except TimeoutError:
            raise Busy("the leader has not appended a checkpoint in time: see `replicator status`") from None

    def _touch(self) -> None:
        if self._expiry is not None:
            self._expiry.cancel()
        self._expiry = asyncio.get_running_loop().call_later(COMPARISON_TIMEOUT_S, self._end)

    def _end(self) -> None:
        self._id, self._compared = "", None
        self._hook.is_requested = False
        self._hook.on_applied = self._hook.on_queued = None
        if self._expiry is not None:
            self._expiry.cancel()
        for state in (*self._states.values(), *self._queued.values()):
            state.close()
        self._states, self._queued = {}, {}
        self._changed.set()


def _scan(view: View, start: bytes, stop: bytes) -> Iterator[tuple[bytes, bytes]]:
    if len(start) <= MAX_KEY_BYTES:
        return view.scan(start, stop)
    longest = start[:MAX_KEY_BYTES]  # LMDB takes no longer one
    return (entry for entry in view.scan(longest, stop) if entry[0] != longest)


async def _digest(view: View, start: bytes, stop: bytes) -> RangeDigest:
    digest = count = 0
    async for key, value in _sliced(_scan(view, start, stop)):
        if count == 2 * COMPARED_RANGE_ENTRIES:
            return RangeDigest(digest & DIGEST_MASK, count, False)
        digest += entry_digest(key, value)
        count += 1
    return RangeDigest(digest & DIGEST_MASK, count, True)


async def _sliced(entries: Iterable[tuple[bytes, bytes]]) -> AsyncIterator[tuple[bytes, bytes]]:
    """Lets other tasks run between slices. Raises `Busy` if the store had to end the state."""
    try:
        for count, entry in enumerate(entries, 1):
            yield entry
            if count % SLICE == 0:
                await asyncio.sleep(COMPARISON_SLICE_MS / 1000)
    except SnapshotEnded:
        raise Busy("the store has grown meanwhile: run `replicator verify` again") from None
