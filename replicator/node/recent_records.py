"""The latest applied records that change rows, for clients that follow the changes (XREAD).

They are kept as they are in the log, and decoded when they are read: adding them must cost a write next to nothing.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import NamedTuple

from replicator.limits import DECODED_BYTES, RECENT_BYTES, RECENT_RECORDS
from replicator.log.port import Entry
from replicator.node.offset_waiters import OffsetWaiters
from replicator.position import Offset
from replicator.records.types import Header, Record
from replicator.store.rows import RecordChange, record_changes

_CHANGE_BYTES = 500  # about what the objects of a decoded change take besides its bytes in the log
_DROP_DIVISOR = 16  # a sixteenth is dropped at once: to drop them one by one would move all others each time


class RecentRecord(NamedTuple):
    offset: Offset
    size: int  # bytes in the log
    header: Header
    changes: Sequence[RecordChange]  # none if it changes no rows of `kv`

    @property
    def memory_bytes(self) -> int:
        return self.size + _CHANGE_BYTES * (1 + len(self.changes))


class RecentRecords:
    def __init__(
        self,
        since: Offset,
        decode: Callable[[bytes], Record],
        *,
        max_bytes: int = RECENT_BYTES,
        max_records: int = RECENT_RECORDS,
        max_decoded_bytes: int = DECODED_BYTES,
    ) -> None:
        self.since = since
        """All applied records after this offset that change rows are here."""
        self._decode = decode
        self._max_bytes, self._max_records, self._max_decoded_bytes = max_bytes, max_records, max_decoded_bytes
        self._offsets: list[Offset] = []  # ascending
        self._payloads: list[bytes] = []  # of the same records; not pairs, which the garbage collector would traverse
        self._bytes = 0  # of `_payloads`
        self._waiters = OffsetWaiters()
        self._decoded: OrderedDict[Offset, RecentRecord] = OrderedDict()  # the last that were read, in that order
        self._decoded_bytes = 0  # the memory of `_decoded`

    @property
    def end(self) -> Offset:
        """The offset of the last applied record that changes rows; that of the store when the node started if none."""
        return self._offsets[-1] if self._offsets else self.since

    def add(self, entries: Sequence[Entry]) -> None:
        """The next records that were applied."""
        if not entries:
            return
        for offset, payload in entries:
            self._offsets.append(offset)
            self._payloads.append(payload)
            self._bytes += len(payload)
        if self._bytes > self._max_bytes or len(self._offsets) > self._max_records:
            self._drop_oldest()
        self._waiters.advance(self._offsets[-1])

    def after(self, offset: Offset) -> RecentRecord | None:
        """The first record after `offset`, which must not be before `since`; None if there is none yet."""
        at = bisect_right(self._offsets, offset)
        return self._read(at) if at < len(self._offsets) else None

    def before(self, offset: Offset) -> RecentRecord | None:
        """The last record before `offset`; None if it is not here any more."""
        at = bisect_left(self._offsets, offset)
        return self._read(at - 1) if at else None

    async def wait(self, offset: Offset) -> None:
        """Until a record at or after `offset`, which is after `end`, is applied."""
        await self._waiters.wait(offset)

    def _read(self, at: int) -> RecentRecord:
        """Others often read the same one, or one of a few, so the last ones are kept decoded."""
        offset, decoded = self._offsets[at], self._decoded
        found = decoded.get(offset)
        if found is None:
            payload = self._payloads[at]
            record = self._decode(payload)
            found = decoded[offset] = RecentRecord(offset, len(payload), record.header, tuple(record_changes(record)))
            self._decoded_bytes += found.memory_bytes
            while self._decoded_bytes > self._max_decoded_bytes and len(decoded) > 1:
                self._decoded_bytes -= decoded.popitem(last=False)[1].memory_bytes
        else:
            decoded.move_to_end(offset)
        return found

    def _drop_oldest(self) -> None:
        """Drop so many that there is room for some time. The newest record stays, whatever its size."""
        offsets, payloads, count, size = self._offsets, self._payloads, 0, self._bytes
        max_bytes = self._max_bytes - self._max_bytes // _DROP_DIVISOR
        max_records = self._max_records - self._max_records // _DROP_DIVISOR
        while count < len(offsets) - 1 and (size > max_bytes or len(offsets) - count > max_records):
            size -= len(payloads[count])
            count += 1
        if count:
            self.since, self._bytes = offsets[count - 1], size
            del offsets[:count], payloads[:count]
