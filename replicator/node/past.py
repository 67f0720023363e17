"""Whether the log holds what a store, or a snapshot, has read of it."""

from __future__ import annotations

import asyncio

from replicator.errors import BrokerUnavailable, LogTruncated
from replicator.intervals import PAST_TIMEOUT_S
from replicator.log.port import Entry, Log
from replicator.protocol.log_state import LogState
from replicator.protocol.verification import is_truncated, verify
from replicator.records.codec import NotARecord, RecordCodec
from replicator.records.types import Record


async def log_holds(log: Log, state: LogState) -> bool | None:
    """Whether the log holds the last record that was accepted up to `state`. None: it was deleted.

    The chain of that record covers all before it. Raises `BrokerUnavailable`, `LogDamage`.
    """
    if not state.timeline:
        return True
    if state.leader_offset < await log.start():
        return None
    if is_truncated(state, await log.end()):
        return False
    entry = await _entry(log, state)
    if entry.offset != state.leader_offset:
        return False
    record = _decoded(entry, state)
    if record is None or record.header.timeline != state.timeline:
        return False
    try:
        verify(state, entry.offset, record)
    except LogTruncated:
        return False
    return await log.end() > state.offset


async def _entry(log: Log, state: LogState) -> Entry:
    reader = log.reader(state.leader_offset)
    try:
        async with asyncio.timeout(PAST_TIMEOUT_S):
            return (await reader.next())[0]
    except TimeoutError:
        raise BrokerUnavailable(
            f"Kafka has not returned the record at offset {state.leader_offset} within {PAST_TIMEOUT_S:.0f} s"
        ) from None
    finally:
        await reader.close()


def _decoded(entry: Entry, state: LogState) -> Record | None:
    try:
        return RecordCodec().decode(entry.payload, state.timeline)
    except NotARecord:
        return None
