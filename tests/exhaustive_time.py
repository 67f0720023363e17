"""A model of nodes, clocks and messages with time in whole ticks, explored over all orders of steps.

Two or three nodes; the first is the leader. A step is one of: the clock ticks; a record in flight arrives in the log; a
leader sends a record, receives the answer, or times out; a node reads the log; a node sends a claim. A record may
arrive at any time after it was sent, or never, and its answer at any time after that. All clocks run at the same rate.
A leader may also change the timing, which the others learn when they read it.

Invariants: at most one node holds a lease, and a node with a lease knows every accepted write of other nodes.

Times are relative to now, so that equal situations are equal states. Each state is explored once, together with the
number of histories that lead to it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from math import inf
from typing import NamedTuple

from replicator.errors import BadRequest, Busy
from replicator.protocol.lease import Lease
from replicator.protocol.roles import Event, Role, advance
from replicator.protocol.timing import LoggedTiming, TimingState, candidacy_ms
from replicator.records.types import Claim, Record, Timing
from tests.exhaustive_logs import LogTree, Message, MessageKind

TIMING = Timing(heartbeat_ms=1, lease_ms=2, election_ms=3, step_ms=0, jitter_ms=0, follower_lease_ms=2)
SLOW = replace(TIMING, lease_ms=4, election_ms=5)
BETWEEN = replace(TIMING, election_ms=5)  # on the way from SLOW to TIMING
TIMINGS = (TIMING, BETWEEN, SLOW)
STABLE = TimingState(TIMING, None, -inf)
STABLE_SLOW = TimingState(SLOW, None, -inf)
COPIES = 2  # of one claim in flight
FIRST_EPOCH = 1  # in which an operator forces claims
NOW = 0
NOBODY = -1
_TRANSFER = (Role.DRAINING, Role.TRANSFERRING, Role.STEPPING_DOWN)


def new_timings() -> Sequence[TimingState]:
    """Of a new cluster in which the leader and the other nodes are configured differently."""
    return [TimingState.opened(LoggedTiming(), configured, NOW) for configured in (SLOW, TIMING)]


class PendingAppend(NamedTuple):
    """An append for which a leader awaits the answer."""

    message: Message
    sent: int
    arrived: int | None  # the log that ends with the record


class NodeModel(NamedTuple):
    role: Role
    known: int  # the log up to what the node has read or written without a gap
    lease: Lease
    heard: int  # when it last received an accepted record
    timing: TimingState
    append: PendingAppend | None = None
    claimed: int | None = None  # when it first sent a claim of the epoch after the one it knows
    successor: int = NOBODY  # while it transfers leadership


class ModelState(NamedTuple):
    log: int
    in_flight: tuple[Message, ...]
    nodes: tuple[NodeModel, ...]


Step = tuple[str, ModelState]


class Model:
    """Subclasses break one rule each."""

    def __init__(
        self,
        nodes: int = 2,
        *,
        operator: bool = True,
        drains: bool = False,
        timings: Sequence[TimingState] = (STABLE, STABLE),
        changes: bool = False,
    ) -> None:
        """`drains`: a leader that transfers leadership takes a step to drain, instead of being drained at once.

        `timings`: that the leader and the followers begin with. `changes`: leaders may change it.
        """
        self.logs = LogTree(nodes, TIMINGS)
        self.operator = operator
        self.drains = drains
        self.changes = changes
        self._slowest = SLOW if changes else TIMING
        leader = NodeModel(Role.LEADER, self.logs.first, Lease(NOW), NOW, timings[0])
        follower = NodeModel(Role.FOLLOWER, self.logs.first, Lease(), NOW, timings[1])
        self.start = ModelState(self.logs.first, (), (leader, *(follower,) * (nodes - 1)))

    # Invariants

    def violation(self, state: ModelState) -> str:
        holders = [number for number, node in enumerate(state.nodes) if self.holds_lease(node)]
        if len(holders) > 1:
            return "two nodes hold a lease"
        writes = self.logs[state.log].writes
        for holder in holders:
            known = self.logs[state.nodes[holder].known].state.offset
            if any(offset > known for author, offset in enumerate(writes) if author != holder):
                return "a node with a lease misses a write"
        return ""

    def holds_lease(self, node: NodeModel) -> bool:
        return node.role in (Role.LEADER, Role.DRAINING) and node.lease.left_ms(NOW, node.timing.current.lease_ms) > 0

    # Steps

    def steps(self, state: ModelState) -> Iterator[Step]:
        yield "tick", ModelState(state.log, state.in_flight, tuple(self._tick_later(node) for node in state.nodes))
        for message in dict.fromkeys(state.in_flight):
            yield f"{message.author} {message.kind} arrives", self._arrive(state, message)
        for number, node in enumerate(state.nodes):
            if not node.role.leads:
                yield from self._reader(state, number, node)
            elif node.append is None:
                yield from self._leader(state, number, node)
            else:
                yield from self._waiting(state, number, node, node.append)

    def _arrive(self, state: ModelState, message: Message) -> ModelState:
        log = self.logs.arrive(state.log, message)
        node = state.nodes[message.author]
        if node.append is not None and node.append.message == message:
            node = node._replace(append=node.append._replace(arrived=log))
        return _with(state, message.author, node)._replace(log=log, in_flight=_remove(state.in_flight, message))

    def _leader(self, state: ModelState, number: int, node: NodeModel) -> Iterator[Step]:
        yield self._append(
            state, number, node, MessageKind.WRITE if self.may_write(node) else MessageKind.HEARTBEAT, number
        )
        for timing in self.possible_timings(node):
            yield self._append(state, number, node, MessageKind.TIMING, timing)
        if node.role is Role.DRAINING:
            yield f"{number} keeps leadership", _with(state, number, _after(node, Event.TRANSFER_TIMED_OUT))
            if self.may_transfer(node):
                yield self._transfer(state, number, node)
        elif self.drains or self.may_transfer(node):
            for other in range(len(state.nodes)):
                if other != number:
                    draining = _after(node, Event.TRANSFER_REQUESTED)._replace(successor=other)
                    if self.drains:
                        yield f"{number} drains for {other}", _with(state, number, draining)
                    else:
                        yield self._transfer(state, number, draining)

    def _transfer(self, state: ModelState, number: int, node: NodeModel) -> Step:
        transferring = _after(node, Event.TRANSFER_CLAIM_SENT)
        return self._append(state, number, transferring, MessageKind.HANDOVER, node.successor)

    def possible_timings(self, node: NodeModel) -> Iterator[int]:
        """The numbers of the timings that this leader may append."""
        is_first = node.timing.since_ms == inf
        for number, timing in enumerate(TIMINGS if self.changes else ()):
            if is_first:
                if timing == node.timing.former:  # that of its config
                    yield number
            elif timing != node.timing.current:
                with suppress(BadRequest, Busy):
                    node.timing.check_change(timing, NOW)
                    yield number

    def may_write(self, node: NodeModel) -> bool:
        return node.lease.wait_ms(NOW) == 0

    def may_transfer(self, node: NodeModel) -> bool:
        return node.lease.wait_ms(NOW) == 0

    def _append(self, state: ModelState, number: int, node: NodeModel, kind: MessageKind, subject: int) -> Step:
        message = Message(kind, number, subject, node.known)
        after = _with(state, number, node._replace(append=PendingAppend(message, NOW, None)))
        return f"{number} sends {kind}", after._replace(in_flight=_add(state.in_flight, message))

    def _waiting(self, state: ModelState, number: int, node: NodeModel, append: PendingAppend) -> Iterator[Step]:
        role, rest = node.role, node._replace(append=None)
        resolving = _after(rest, Event.APPEND_OUTCOME_UNKNOWN)._replace(claimed=None)
        yield f"{number} does not know the outcome", _with(state, number, resolving)
        if append.arrived is None:
            if role is Role.TRANSFERRING:
                refused = _with(state, number, _after(rest, Event.TRANSFER_REFUSED))
                yield f"{number} is refused", refused._replace(in_flight=_remove(state.in_flight, append.message))
            return
        arrived = self.logs[append.arrived]
        if arrived.before != node.known:
            yield (
                f"{number} appended at another offset",
                _with(state, number, _after(rest, Event.APPEND_MISPLACED)),
            )
            return
        assert arrived.void is None, "a record at the next offset is void"
        if role is Role.TRANSFERRING:  # and will read its claim as a follower
            done = _after(rest, Event.TRANSFER_COMMITTED)._replace(heard=NOW, claimed=None)
        else:
            lease = node.lease.renewed(self.lease_from(append))
            done = self._follow(rest._replace(lease=lease, known=append.arrived), arrived.record)
        yield f"{number} has committed", _with(state, number, done)

    def _follow(self, node: NodeModel, record: Record | None) -> NodeModel:
        """After an accepted record."""
        if record is None or not isinstance(record.body, Timing):
            return node
        return node._replace(timing=_settled(node.timing.read(record.body, NOW)))

    def lease_from(self, append: PendingAppend) -> int:
        return append.sent

    def _reader(self, state: ModelState, number: int, node: NodeModel) -> Iterator[Step]:
        if node.known != state.log or node.role is Role.CHECKING:
            yield f"{number} reads", _with(state, number, self._read(state.log, number, node))
        if node.role is Role.RESOLVING:
            yield from self._claim(state, number, node, MessageKind.RESOLVE)
        elif node.role is not Role.CHECKING:
            if NOW - node.heard >= candidacy_ms(node.timing.current, rank=0, random=0.0):
                yield from self._claim(state, number, node._replace(heard=NOW), MessageKind.ELECTION)
            if self.operator and self.logs[state.log].state.epoch == FIRST_EPOCH:
                yield from self._claim(state, number, node, MessageKind.FORCE)

    def _claim(self, state: ModelState, number: int, node: NodeModel, kind: MessageKind) -> Iterator[Step]:
        message = Message(kind, number, number, node.known)
        if state.in_flight.count(message) < COPIES:
            claimed = self.first_sent(node)
            after = _with(state, number, _after(node, Event.CLAIM_SENT)._replace(claimed=claimed))
            yield f"{number} claims: {kind}", after._replace(in_flight=_add(state.in_flight, message))

    def first_sent(self, node: NodeModel) -> int:
        return NOW if node.claimed is None else node.claimed

    def _read(self, log: int, number: int, node: NodeModel) -> NodeModel:
        """Read the log to its end."""
        lease, heard, claimed = node.lease, node.heard, node.claimed
        own = self.logs.authors[number]
        for _, _, record, void, _ in self.logs.since(node.known, log):
            if record is None or void is not None:
                continue
            heard, body = NOW, record.body
            node = self._follow(node, record)
            if not isinstance(body, Claim):
                if node.role is Role.CANDIDATE:
                    node = _after(node, Event.CLAIM_OUTDATED)
                elif node.role is Role.STEPPING_DOWN and record.header.author == self.logs.authors[node.successor]:
                    node = _after(node, Event.SUCCESSOR_STARTED)
                continue
            if body.leader == own:
                node = _after(node, Event.OWN_CLAIM_ACCEPTED)
                sent = claimed if record.header.author == own else None
                lease = lease.claimed(body.reason, sent, NOW, node.timing.longest_lease_ms(NOW))
            elif node.role is Role.STEPPING_DOWN and body.leader == self.logs.authors[node.successor]:
                node = _after(node, Event.SUCCESSOR_CLAIM_ACCEPTED)
            else:
                node = _after(node, Event.OTHER_CLAIM_ACCEPTED)
            claimed = None
        if node.role is Role.CHECKING:
            node = _after(node, Event.CHECK_PASSED)
        return NodeModel(node.role, log, lease, heard, node.timing, None, claimed, node.successor)

    def _tick_later(self, node: NodeModel) -> NodeModel:
        """The node one tick later. Times too long ago to matter are clamped, to have fewer states."""
        start, serve = node.lease
        append, claimed = node.append, node.claimed
        oldest = -self._slowest.lease_ms
        return node._replace(
            lease=Lease(None if start is None or start - 1 <= oldest else start - 1, max(0.0, serve - 1)),
            heard=max(node.heard - 1, -self._slowest.election_ms),
            timing=_settled(node.timing._replace(since_ms=node.timing.since_ms - 1)) if self.changes else node.timing,
            append=append and append._replace(sent=max(append.sent - 1, oldest)),
            claimed=None if claimed is None else max(claimed - 1, oldest),
        )


def _after(node: NodeModel, event: Event) -> NodeModel:
    role = advance(node.role, event)
    return node._replace(role=role, successor=node.successor if role in _TRANSFER else NOBODY)


def _with(state: ModelState, number: int, node: NodeModel) -> ModelState:
    return state._replace(nodes=(*state.nodes[:number], node, *state.nodes[number + 1 :]))


def _add(messages: tuple[Message, ...], message: Message) -> tuple[Message, ...]:
    return tuple(sorted((*messages, message)))


def _remove(messages: tuple[Message, ...], message: Message) -> tuple[Message, ...]:
    place = messages.index(message)
    return messages[:place] + messages[place + 1 :]


def _settled(timing: TimingState) -> TimingState:
    """Without the former timing once it does not matter any more, to have fewer states."""
    return timing if timing.former_left_ms(NOW) > 0 else TimingState(timing.current, None, -inf)


class Explored(NamedTuple):
    histories: int  # of that many steps
    states: int  # distinct states
    violation: str  # the first one, and the steps that lead to it; empty if there is none


def explore(model: Model, steps: int) -> Explored:
    """All histories of that many steps, or up to the first violation."""
    came_from: dict[ModelState, tuple[ModelState, str]] = {}
    frontier = {model.start: 1}
    states = 0
    for _ in range(steps):
        longer: dict[ModelState, int] = {}
        for state, histories in frontier.items():
            for name, after in model.steps(state):
                known = longer.get(after)
                longer[after] = histories + (known or 0)
                if known is None and after not in came_from:
                    came_from[after] = state, name
                    violation = model.violation(after)
                    if violation:
                        return Explored(sum(longer.values()), states, f"{violation}: {_path(model, came_from, after)}")
        frontier = longer
        states += len(frontier)
    return Explored(sum(frontier.values()), states, "")


def _path(model: Model, came_from: dict[ModelState, tuple[ModelState, str]], state: ModelState) -> str:
    names: list[str] = []
    while state != model.start:
        state, name = came_from[state]
        names.append(name)
    return ", ".join(reversed(names))
