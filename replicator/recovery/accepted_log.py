"""Reads the accepted records of a log, from a known state on. Judges them as every replica does."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from typing import NamedTuple

from replicator.log.port import Entry, Log
from replicator.position import Offset
from replicator.protocol.acceptance import judge, skip
from replicator.protocol.log_state import LogState
from replicator.protocol.verification import past_differs, truncated, verify
from replicator.records.codec import BARRIER, NotARecord, RecordCodec
from replicator.records.types import Record


class AcceptedRecord(NamedTuple):
    offset: Offset
    record: Record
    state: LogState  # of the log after this record


class Judged(NamedTuple):
    before: LogState  # of the log before the first entry
    state: LogState  # of the log after the last entry
    accepted: Sequence[AcceptedRecord]
    compared_us: int = 0  # when the last record was written that was read before, and read again; 0: there is none
    version: int = 0  # of the last record that was accepted or compared; 0: there is none

    @property
    def written_us(self) -> int:
        """When the last accepted record was written, by its author's clock; 0 if none was read."""
        return self.accepted[-1].record.header.timestamp_us if self.accepted else self.compared_us


class LogBounds(NamedTuple):
    start: Offset  # of the first entry that was not deleted
    end: Offset  # of the next append


async def bounds_of(log: Log) -> LogBounds:
    """Raises `BrokerUnavailable`, `LogDamage`."""
    return LogBounds(await log.start(), await log.end())


def judge_entries(codec: RecordCodec, state: LogState, entries: Sequence[Entry]) -> Judged:
    """Entries up to `state.offset` are compared with the state. Raises `LogDamage`, `UpgradeNeeded`."""
    before, accepted, compared_us, version = state, list[AcceptedRecord](), 0, 0
    for offset, payload in entries:
        try:
            record = None if payload == BARRIER else codec.decode(payload, state.timeline)
        except NotARecord:
            record = None
        if offset <= state.offset:
            verify(state, offset, record)
            if record is not None and offset == state.leader_offset:
                compared_us, version = record.header.timestamp_us, record.header.version
        elif record is None:
            state = skip(state, offset)
        else:
            state, void = judge(state, offset, record)
            if void is None:
                accepted.append(AcceptedRecord(offset, record, state))
                version = record.header.version
    return Judged(before, state, accepted, compared_us, version)


async def read_accepted(log: Log, state: LogState, bounds: LogBounds) -> AsyncGenerator[Judged, None]:
    """The accepted records after `state`, up to the end of the log in `bounds`.

    First the last accepted record is read again and compared, unless it was deleted from the log. Raises `LogDamage`,
    `LogTrimmed`, `UpgradeNeeded`, `BrokerUnavailable`.
    """
    codec = RecordCodec()
    compares = bool(state.timeline) and state.leader_offset >= bounds.start
    first = state.leader_offset if compares else Offset(state.offset + 1)
    if first >= bounds.end:
        if compares:
            raise truncated(state, bounds.end)
        return
    reader = log.reader(first)
    try:
        while first < bounds.end:
            entries = [entry for entry in await reader.next() if entry.offset < bounds.end]
            if compares and entries[:1] and entries[0].offset != first:
                raise past_differs(first)
            compares = False
            judged = judge_entries(codec, state, entries)
            state = judged.state
            yield judged
            first = Offset(entries[-1].offset + 1) if entries else bounds.end
    finally:
        await reader.close()
