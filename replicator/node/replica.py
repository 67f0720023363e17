"""Decodes, judges and applies the entries of the log, and wakes the tasks that wait for an offset."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import islice
from math import inf
from typing import NamedTuple

from replicator.errors import LogDamage, UpgradeNeeded
from replicator.limits import COMMAND_CHANGES, SLICE_CHANGES
from replicator.log.port import Entry
from replicator.node.checkpoints import CheckpointHook
from replicator.node.clock import Clock
from replicator.node.commands import Execute, with_changes
from replicator.node.committed_batch import RecordEnd
from replicator.node.latencies import Histogram
from replicator.node.offset_waiters import OffsetWaiters
from replicator.node.recent_records import RecentRecords
from replicator.node.term_history import TermHistory
from replicator.position import Author, Offset
from replicator.protocol.acceptance import judge, judge_sent, skip
from replicator.protocol.log_state import LogState
from replicator.protocol.verification import verify
from replicator.records.codec import BARRIER, NotARecord, RecordCodec
from replicator.records.types import Change, Checkpoint, Claim, Command, Heartbeat, Record, Single, Write, singles
from replicator.steps import Steps
from replicator.store.machine import Machine
from replicator.store.view import Entries

logger = logging.getLogger(__name__)

RowListener = Callable[[str, bytes], None]
"""Called with the table and row of each change, both when it is submitted here and when it is applied."""

ChangeListener = Callable[[int, Sequence[Single]], None]
"""Called with bodies that were applied, in order, and the time in their headers (us)."""


class Accepted(NamedTuple):
    entry: Entry
    record: Record
    end: RecordEnd


class Applied(NamedTuple):
    accepted: list[Accepted]
    rest: Sequence[Entry]  # to be read after other tasks have run
    problem: str | None = None  # why the rest cannot be applied; None: it can


def _changes(record: Record) -> int:
    """The number of entries that it changes; of a command, at least as many as could be changed in its time."""
    if type(record.body) is Command:
        return COMMAND_CHANGES + record.body.changes + record.body.reads
    return sum(len(body.changes) for body in singles(record.body) if type(body) is Write)


def _cannot_execute(command: Command, state: Entries) -> Steps[Mapping[bytes, Change]]:
    raise UpgradeNeeded("the log has commands, and nothing executes them here")


class Replica:
    def __init__(self, machine: Machine, codec: RecordCodec, clock: Clock, apply_latency: Histogram) -> None:
        self.machine = machine
        self.codec = codec
        self._clock = clock
        self._apply_latency = apply_latency
        self.void_records = 0
        self.terms = TermHistory()
        self.compared = asyncio.Event()  # set once the log is known to hold what the store holds
        self.execute: Execute = _cannot_execute
        """For the commands in the log."""
        self.row_listener: RowListener | None = None
        self.change_listener: ChangeListener | None = None
        self.recent = RecentRecords(machine.state.offset, lambda payload: codec.decode(payload, self.state.timeline))
        self.checkpoints = CheckpointHook()
        self.awaits = asyncio.Event()  # set when a task begins to wait in `applied`
        self._waiters = OffsetWaiters()  # for offsets that are in the log
        self._listeners = OffsetWaiters()  # for whatever comes next
        self._written_us = 0
        self._used_us: int | None = None  # when the leader wrote its last record but heartbeats; None: not known

    @property
    def state(self) -> LogState:
        return self.machine.state

    def read(self, entries: Sequence[Entry]) -> Steps[Applied]:
        """Apply the next entries of the log, as many as may be applied together. Nothing else may be applied meanwhile.

        Entries that were read before are compared with the store's state (`protocol.verification`). Raises what that,
        `RecordCodec.decode`, `judge` and `apply` do.
        """
        state = self.state
        accepted: list[Accepted] = []
        changing: list[Entry] = []  # those of the accepted records that change rows
        void_records, why_void = 0, ""
        changes, read = 0, 0
        for entry in entries:
            offset, payload = entry
            if changes >= SLICE_CHANGES:
                break
            read += 1
            if payload == BARRIER and offset > state.offset:
                state = skip(state, offset)
                void_records += 1
                continue
            try:
                record = self.codec.decode(payload, state.timeline)
            except NotARecord as error:
                if offset <= state.offset:
                    verify(state, offset, None)
                    continue
                state = skip(state, offset)
                void_records += 1
                why_void = f"offset {offset}: {error}"
                continue
            if offset <= state.offset:
                verify(state, offset, record)
                continue
            state, void = judge(state, offset, record)
            if void is None:
                accepted.append(Accepted(entry, record, RecordEnd(state.seq, state.chain)))
                if changed := _changes(record):
                    changes += changed
                    changing.append(entry)
                elif self._ends_batch(record):
                    break
            else:
                void_records += 1
                why_void = f"offset {offset}: {type(record.body).__name__} by {record.header.author}, {void}"
        before = self.state
        yield from self._apply_accepted(accepted, changing, state)
        self.void_records += void_records
        if why_void:
            logger.warning("%d records are void, the last at %s", void_records, why_void)
        if state.epoch != before.epoch:
            self._note_claims(before.leader, accepted)
        return Applied(accepted, entries[read:])

    def apply_sent(self, entries: Sequence[Entry]) -> Steps[Applied]:
        """Apply records that another node has sent, as `read`. Raises what `apply` does."""
        state = self.state
        accepted: list[Accepted] = []
        changing: list[Entry] = []  # as in `read`
        problem = None
        changes, read = 0, 0
        for entry in entries:
            offset, payload = entry
            if changes >= SLICE_CHANGES:
                break
            try:
                record = self.codec.decode(payload, state.timeline)
            except (NotARecord, LogDamage, UpgradeNeeded) as error:
                problem = f"the record at offset {offset}: {error}"
                break
            read += 1
            if record.last_seq <= state.seq and record.header.epoch == state.epoch:
                continue  # read from the log already; the chain was compared when the stream began
            after = judge_sent(state, offset, record)
            if after is None:
                problem = f"the record at offset {offset} is not the next one after offset {state.offset}"
                break
            state = after
            accepted.append(Accepted(entry, record, RecordEnd(state.seq, state.chain)))
            if changed := _changes(record):
                changes += changed
                changing.append(entry)
            elif self._ends_batch(record):
                break
        yield from self._apply_accepted(accepted, changing, state)
        return Applied(accepted, entries[read:], problem)

    def _apply_accepted(self, accepted: Sequence[Accepted], changing: Sequence[Entry], state: LogState) -> Steps[None]:
        if state is not self.state:
            self._note_use(accepted)
            written_us = accepted[-1].record.header.timestamp_us if accepted else self._written_us
            read = [body for _, record, _ in accepted for body in singles(record.body)]
            bodies = yield from with_changes(read, self.machine.view, self.execute)
            commands: Sequence[int] = ()
            if bodies is not read:
                commands = [place for place, body in enumerate(read) if type(body) is Command]
                changing = self._with_changes(accepted, bodies)
            self.apply(bodies, state, written_us, commands)
            self.recent.add(changing)
            if self.change_listener is not None:
                applied = iter(bodies)
                for _, record, _ in accepted:
                    self.change_listener(record.header.timestamp_us, [*islice(applied, len(singles(record.body)))])
            if accepted and self._ends_batch(accepted[-1].record):
                assert self.checkpoints.on_applied is not None
                self.checkpoints.on_applied(accepted[-1].entry.offset)

    def _with_changes(self, accepted: Sequence[Accepted], bodies: Sequence[Single]) -> Sequence[Entry]:
        """The entries that change rows, with the changes of commands in their place. `bodies`: what is applied."""
        changing: list[Entry] = []
        applied = iter(bodies)
        for (offset, payload), record, _ in accepted:
            first, *_ = islice(applied, len(singles(record.body)))
            if type(record.body) is Command:
                changing.append(Entry(offset, self.codec.encode(record.header, self.codec.encode_body(first))))
            elif type(first) is Write:
                changing.append(Entry(offset, payload))
        return changing

    def _ends_batch(self, record: Record) -> bool:
        """Whether the state at this record is to be kept, so nothing is applied together with it that follows it."""
        return type(record.body) is Checkpoint and self.checkpoints.on_applied is not None

    def _note_use(self, accepted: Sequence[Accepted]) -> None:
        for _, (header, body, _), _ in reversed(accepted):
            if type(body) is not Heartbeat:
                by_leader = type(body) is not Claim or body.leader == header.author  # others have other clocks
                self._used_us = header.timestamp_us if by_leader else None
                return

    @property
    def leader_unused_ms(self) -> float:
        """For how long the leader had written nothing but heartbeats when it wrote the last record, by its clock.

        inf if that is not known, for example because this process has read no other record of it.
        """
        if self._used_us is None or self._written_us < self._used_us:
            return inf
        return (self._written_us - self._used_us) / 1000

    def _note_claims(self, leader: Author | None, accepted: Iterable[Accepted]) -> None:
        for (offset, _), (header, body, _), _ in accepted:
            if type(body) is Claim:
                self.terms.note(leader, offset, header, body)
                leader = body.leader

    def apply(self, bodies: Sequence[Single], state: LogState, written_us: int, commands: Sequence[int] = ()) -> None:
        """Apply the bodies of accepted records in order.

        `state` is the state after them; the last one was written at `written_us`, by its author's clock. `commands`:
        the places of those that are commands in the log.
        """
        began_s = self._clock.peek_s()
        self.machine.apply(bodies, state, commands)
        self._apply_latency.observe(self._clock.peek_s() - began_s)
        self._written_us = written_us
        self._waiters.advance(state.offset)
        self._listeners.advance(state.offset)
        if self.row_listener is not None:
            for body in bodies:
                if type(body) is Write:
                    self.notify_listener(body.changes)

    def notify_listener(self, changes: Iterable[Change]) -> None:
        """Call the listener for each change."""
        if self.row_listener is not None:
            for change in changes:
                self.row_listener(change.table, change.row)

    @property
    def has_applied(self) -> bool:
        """Whether an accepted record was applied since this process started."""
        return self._written_us > 0

    def age_ms(self, now_us: int) -> float:
        """How long ago the last record applied was written, by its author's clock; 0 if none was."""
        return max(0.0, (now_us - self._written_us) / 1000) if self._written_us else 0.0

    @property
    def awaited(self) -> Offset | None:
        """The lowest offset that a task waits for in `applied`."""
        return self._waiters.lowest

    async def changed(self, since: Offset | None = None) -> None:
        """Wait until records are applied, or until the store is beyond the offset `since`."""
        offset = Offset((self.state.offset if since is None else since) + 1)
        if self.state.offset < offset:
            await self._listeners.wait(offset)

    async def applied(self, offset: Offset) -> None:
        """Wait until the store has applied the log up to `offset`, which is in the log."""
        if self.state.offset < offset:
            self.awaits.set()
            await self._waiters.wait(offset)
