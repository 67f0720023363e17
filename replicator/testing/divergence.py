"""Why the log has the tape of each command: replicas execute the same commands, with it and without it.

A leader executes commands and appends them to a log; each replica executes them again, on a store of its own. Those
with the tape do what the replicas of a cluster do. Those without it make the nondeterministic calls themselves, and use
their own clocks, as in replication by statements. The leader appends checkpoints, with which all compare their stores.
Everything runs in this process, with the engine, stores and records of a node.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from replicator.errors import Diverged
from replicator.limits import COMPARED_RANGE_ENTRIES
from replicator.local.progress import ProgressReporter
from replicator.node.commands import with_changes
from replicator.position import Author, Epoch, NodeId, Offset, Seq
from replicator.records.codec import RecordCodec
from replicator.records.tape import Call, Recorder, Unrecorded
from replicator.records.types import VERSION, Body, Checkpoint, Command, Header, Single, Write
from replicator.server.keyspace import WritableKeyspace
from replicator.server.programs import Programs
from replicator.server.redis.commands import look_up
from replicator.server.redis.execution import Replay, execute, to_log
from replicator.sql.catalog import TABLE_PREFIX
from replicator.sql.key_order import decode_integer
from replicator.steps import finish
from replicator.store.digest import recount
from replicator.store.keys import decode_key
from replicator.store.machine import Machine, open_machine
from replicator.store.view import Overlay, Transaction, View
from replicator.testing.divergence_load import CommandLine, commands

CHECKPOINTS = 10
TOGETHER = 200  # commands, at most, that are applied in one transaction of the store
LEADER = "leader"
WITHOUT_TAPE, WITH_TAPE = ("r1", "r2"), ("r3", "r4")

_TIMELINE = bytes(16)
_BEYOND = b"\xff"  # above every key


class IgnoredTape(Unrecorded):
    """Makes each call again. No node can have it."""

    def __init__(self, calls: Sequence[Call]) -> None:
        pass

    def finish(self) -> None:
        pass


class DivergedEntry(NamedTuple):
    table: str
    row: str
    field: str


@dataclass(frozen=True, slots=True)
class CheckpointDigests:
    commands: int  # before it
    digests: dict[str, str]  # by replica, the leader among them


@dataclass(frozen=True, slots=True)
class ReplicaOutcome:
    """What one replica has become."""

    id: str
    has_tape: bool
    found_at: int | None  # number of the first checkpoint that differs, from 1; None: it is equal to the leader
    problem: str  # what a node would report there
    other_changes: int  # commands that changed more or fewer entries than at the leader
    differing: int  # entries at the end
    entries: Sequence[DivergedEntry]  # of these, the first ones in each table


@dataclass(frozen=True, slots=True)
class DivergenceReport:
    """Its fields are those of the JSON."""

    commands: int
    checkpoints: Sequence[CheckpointDigests]
    replicas: Sequence[ReplicaOutcome]

    @property
    def is_as_expected(self) -> bool:
        """All replicas with the tape are equal to the leader, and no other one is."""
        return all(it.has_tape is (it.found_at is None) is (it.differing == 0) for it in self.replicas)


def demonstrate_divergence(count: int, seed: int, shown: int, progress: ProgressReporter) -> DivergenceReport:
    """`shown`: how many entries that differ are named, of each table.

    Raises `Diverged` if a replica with the tape executes a command in another way than the leader.
    """
    with tempfile.TemporaryDirectory(prefix="replicator-divergence-") as name, ExitStack() as stack:
        leader = _Leader(_opened(stack, Path(name), LEADER))
        replicas = [
            *(_ReplicaWithoutTape(it, _opened(stack, Path(name), it)) for it in WITHOUT_TAPE),
            *(_Replica(it, _opened(stack, Path(name), it)) for it in WITH_TAPE),
        ]
        lines, done, at_once = commands(count, seed), 0, min(TOGETHER, count // CHECKPOINTS)
        checkpoints: list[CheckpointDigests] = []
        while together := list(islice(lines, at_once)):
            log = [leader.decode(it) for it in leader.execute(together)]
            done += len(together)
            if done * CHECKPOINTS >= count * (len(checkpoints) + 1):
                log.append(leader.decode(leader.checkpoint()))
                digests = {LEADER: leader.machine.meta.digest}
            else:
                digests = {}
            for replica in replicas:
                replica.apply(log, len(checkpoints) + 1)
                digests |= {replica.id: replica.machine.meta.digest} if digests else {}
            if digests:
                checkpoints.append(CheckpointDigests(done, {id: f"{it:032x}" for id, it in digests.items()}))
            progress.bar("commands", "executing commands", done, max(done, count))
        progress.step("comparing the stores")
        outcomes = [it.outcome(leader.machine.view, shown) for it in replicas]
        return DivergenceReport(done, checkpoints, outcomes)


def _opened(stack: ExitStack, folder: Path, id: str) -> Machine:
    machine = open_machine(folder / id, "divergence", "divergence")
    stack.callback(machine.close)
    return machine


class _Leader:
    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self._codec = RecordCodec()
        self._programs = Programs(limited=False)

    def execute(self, lines: Sequence[CommandLine]) -> list[bytes]:
        """The records of the commands that have changed anything."""
        overlay, written, records = Overlay(self.machine.view), list[Single](), list[bytes]()
        for line in lines:
            transaction, tape, now_ms = Transaction(overlay), Recorder(), time.time_ns() // 1_000_000
            keyspace = WritableKeyspace(transaction, now_ms, self._programs, tape)
            finish(execute(keyspace, look_up(line), line))
            if transaction.changes:
                overlay.push(transaction.changes)
                written.append(Write(tuple(transaction.changes.values())))
                records.append(self._record(to_log(keyspace, [line])))
        _apply(self.machine, written)
        return records

    def checkpoint(self) -> bytes:
        return self._record(Checkpoint(self.machine.meta.digest, self.machine.meta.entries))

    def decode(self, record: bytes) -> Single:
        """What a replica reads."""
        body = self._codec.decode(record, _TIMELINE).body
        assert isinstance(body, (Command, Checkpoint))
        return body

    def _record(self, body: Body) -> bytes:
        author, chain = Author(NodeId(LEADER), 1), bytes(8)
        header = Header(VERSION, _TIMELINE, Epoch(1), author, Seq(1), time.time_ns() // 1000, chain)
        return self._codec.encode(header, self._codec.encode_body(body))


class _Replica:
    """Executes the commands as the replicas of a cluster do."""

    has_tape = True

    def __init__(self, id: str, machine: Machine) -> None:
        self.id = id
        self.machine = machine
        self._found_at: int | None = None
        self._problem = ""
        self._other_changes = 0
        self._execute = Replay()

    def apply(self, bodies: Sequence[Single], checkpoint: int) -> None:
        """`checkpoint`: number of the one among them, if there is one. Raises `Diverged`."""
        checkpoints = [it for it in bodies if isinstance(it, Checkpoint)]
        _apply(self.machine, self._with_changes([it for it in bodies if isinstance(it, Command)]))
        if checkpoints and self._found_at is None:
            try:
                _apply(self.machine, checkpoints)
            except Diverged as error:
                self._found_at, self._problem = checkpoint, str(error)

    def outcome(self, leader: View, shown: int) -> ReplicaOutcome:
        entries = list(_differences(leader, self.machine.view))
        tables = [[it for it in entries if it.table == table] for table in dict.fromkeys(it.table for it in entries)]
        first = [it for of_table in tables for it in of_table[:shown]]
        found = self._found_at, self._problem, self._other_changes
        return ReplicaOutcome(self.id, self.has_tape, *found, len(entries), first)

    def _with_changes(self, bodies: Sequence[Command]) -> Sequence[Single]:
        return finish(with_changes(bodies, self.machine.view, self._execute))


class _ReplicaWithoutTape(_Replica):
    """Executes them anew, with its own clock. It goes on although its store differs."""

    has_tape = False

    def __init__(self, id: str, machine: Machine) -> None:
        super().__init__(id, machine)
        self._execute = Replay(play=IgnoredTape)

    def _with_changes(self, bodies: Sequence[Command]) -> Sequence[Single]:
        overlay, written = Overlay(self.machine.view), list[Single]()
        for body in bodies:
            changes = finish(self._execute(body._replace(now_ms=time.time_ns() // 1_000_000), overlay))
            self._other_changes += len(changes) != body.changes
            overlay.push(changes)
            written.append(Write(tuple(changes.values())))
        return written


def _apply(machine: Machine, bodies: Sequence[Single]) -> None:
    if bodies:
        state = machine.state
        offset, seq = Offset(state.offset + len(bodies)), Seq(state.seq + len(bodies))
        machine.apply(bodies, state._replace(offset=offset, seq=seq))


def _differences(leader: View, other: View) -> Iterator[DivergedEntry]:
    """In the order of the keys. Entries are listed only for ranges whose digests differ."""
    start = b""
    while True:
        keys = [key for key, _ in islice(leader.scan(start, _BEYOND), COMPARED_RANGE_ENTRIES + 1)]
        stop = keys[-1] if len(keys) > COMPARED_RANGE_ENTRIES else _BEYOND
        if recount(leader.scan(start, stop)) != recount(other.scan(start, stop)):
            own, others = dict(leader.scan(start, stop)), dict(other.scan(start, stop))
            for key in sorted(own.keys() | others.keys()):
                if own.get(key) != others.get(key):
                    yield _described(key)
        if stop == _BEYOND:
            return
        start = stop


def _described(key: bytes) -> DivergedEntry:
    table, row, field = decode_key(key)
    name = f"rowid {decode_integer(row)}" if table.startswith(TABLE_PREFIX) else row.decode(errors="backslashreplace")
    return DivergedEntry(table, name, field.decode(errors="backslashreplace"))
