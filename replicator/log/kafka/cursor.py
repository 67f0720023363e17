"""Reads one partition from an offset on. Fetches one response ahead, decodes in slices, retries failed requests."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import NamedTuple

from replicator.errors import BrokerUnavailable
from replicator.intervals import FETCH_RETRY_S, MAX_FETCH_RETRY_S
from replicator.limits import SLICE_BYTES, SLICE_ENTRIES
from replicator.log.kafka.partition import (
    OFFSET_OUT_OF_RANGE,
    CorruptBatch,
    FetchedBatch,
    PartitionClient,
    RequestFailed,
    RequestLost,
    decode_batches,
)
from replicator.log.port import Entry
from replicator.position import Offset


class OffsetOutOfRange(Exception):
    """The offset is below the start of the log, or above its end."""


class Fetched(NamedTuple):
    batches: list[FetchedBatch]
    leader_changes: int  # of the client, when the leader answered
    known_end: Offset  # of the log, when the request was sent


def no_known_end() -> Offset:
    return Offset(0)


def next_slice(undecoded: Iterator[Entry]) -> list[Entry]:
    """The next entries, as many as may be applied at once; at least one if there are any."""
    entries: list[Entry] = []
    size = 0
    for entry in undecoded:
        entries.append(entry)
        size += len(entry.payload)
        if len(entries) == SLICE_ENTRIES or size >= SLICE_BYTES:
            break
    return entries


class Cursor:
    """One task at a time may call `poll`. Keeps at most two responses: one being decoded, and one fetched ahead."""

    def __init__(
        self,
        client: PartitionClient,
        start: Offset,
        *,
        retry_timeout_ms: int,
        fetch_wait_ms: int,
        fetch_bytes: int,
        known_end: Callable[[], Offset] = no_known_end,
    ) -> None:
        """`known_end`: the leader of the partition has all entries below it."""
        self.position = start  # offset of the next entry to return, or of a gap before it
        self.leader_changes = 0  # before the last entry that was returned; also if there are no entries to return
        self._known_end = known_end
        self._client = client
        self._retry_timeout_ms = retry_timeout_ms
        self._fetch_wait_ms = fetch_wait_ms
        self._fetch_bytes = fetch_bytes
        self._fetch_from = start
        self._fetching: asyncio.Task[Fetched] | None = None
        self._undecoded: Iterator[Entry] | None = None
        self._corrupt_at: Offset | None = None
        self._failures = 0
        self._failing_since = 0.0

    async def poll(self) -> list[Entry]:
        """The next entries; may be empty. Cancelling the call loses no entries.

        Raises `OffsetOutOfRange`, `CorruptBatch` (if a second fetch is corrupt too), and `BrokerUnavailable` once
        requests have failed for `retry_timeout_ms`.
        """
        try:
            if self._undecoded is not None:
                await asyncio.sleep(0)  # so that a long catch-up does not starve other tasks
                if entries := self._take():
                    return entries
            return await self._fetched()
        except CorruptBatch:
            # Fetch it again: the batch may be intact on the broker's disk, and corrupted on its way.
            again = self._corrupt_at == self.position
            self._corrupt_at = self.position
            self._restart(self.position)
            if again:
                raise
            return []

    def seek(self, offset: Offset) -> None:
        if offset != self.position:
            self._restart(offset)

    async def close(self) -> None:
        if self._fetching is not None:
            self._fetching.cancel()
            await asyncio.wait([self._fetching])
        self._client.close()

    def _take(self) -> list[Entry]:
        assert self._undecoded is not None
        entries = next_slice(self._undecoded)
        if entries:
            self.position = Offset(entries[-1].offset + 1)
        else:
            self._undecoded = None
        return entries

    async def _fetched(self) -> list[Entry]:
        fetching = self._fetching or self._fetch()
        await asyncio.wait([fetching])  # `await fetching` would cancel the fetch together with this call
        if self._fetching is not fetching:
            return []  # `seek` was called meanwhile
        self._fetching = None
        try:
            batches, leader_changes, known_end = fetching.result()
        except RequestFailed as error:
            if error.code == OFFSET_OUT_OF_RANGE:
                raise OffsetOutOfRange from error
            return await self._pause(error)
        except (RequestLost, BrokerUnavailable) as error:
            return await self._pause(error)
        self._failures = 0
        self.leader_changes = leader_changes
        if not batches:
            if self.position < known_end:
                self._client.reconnect()
            return []
        self._fetch_from = batches[-1].next_offset
        self._undecoded = decode_batches(batches, self.position)
        self._fetch()
        return self._take()

    def _fetch(self) -> asyncio.Task[Fetched]:
        self._fetching = asyncio.create_task(self._request(self._fetch_from, self._known_end()))
        return self._fetching

    async def _request(self, start: Offset, known_end: Offset) -> Fetched:
        batches = await self._client.fetch(start, max_wait_ms=self._fetch_wait_ms, max_bytes=self._fetch_bytes)
        return Fetched(batches, self._client.leader_changes, known_end)

    async def _pause(self, error: Exception) -> list[Entry]:
        now = asyncio.get_running_loop().time()
        if self._failures == 0:
            self._failing_since = now
        elif now - self._failing_since >= self._retry_timeout_ms / 1000:
            self._failures = 0
            raise BrokerUnavailable(f"requests have failed for {self._retry_timeout_ms} ms: {error}") from error
        self._failures += 1
        await asyncio.sleep(min(MAX_FETCH_RETRY_S, FETCH_RETRY_S * 2**self._failures))
        return []

    def _restart(self, offset: Offset) -> None:
        self.position = self._fetch_from = offset
        self._undecoded = None
        if self._fetching is not None:
            self._fetching.cancel()
            self._fetching = None
