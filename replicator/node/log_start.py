"""What the log begins with: the first claim of a cluster, or the content of another one that was restored."""

from __future__ import annotations

import contextlib

from replicator.log.port import Entry, Log
from replicator.position import Offset
from replicator.protocol.log_state import LogState
from replicator.protocol.timeline import continues_a_restore
from replicator.records.codec import NotARecord, RecordCodec
from replicator.records.types import Claim

FIRST = Offset(0)


async def first_entries(log: Log, count: int) -> list[Entry]:
    """Those at the lowest offsets, if there are so many; the end of the log is above the first."""
    end = await log.end()
    reader, found = log.reader(FIRST), list[Entry]()
    try:
        while len(found) < count and (not found or found[-1].offset + 1 < end):
            found += await reader.next()
    finally:
        await reader.close()
    return found[:count]


async def continues_another(log: Log) -> bool:
    """Whether this is the log of a restored cluster, which does not have the content with which that began.

    False also if the beginning of the log was deleted. Raises `BrokerUnavailable`, `LogDamage`.
    """
    if await log.start() > FIRST or await log.end() == FIRST:
        return False
    [first] = await first_entries(log, 1)
    with contextlib.suppress(NotARecord):
        body = RecordCodec().decode(first.payload, b"").body
        return isinstance(body, Claim) and continues_a_restore(LogState(), body)
    return False
