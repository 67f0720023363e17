"""A model of nodes, clocks and messages in whole ticks, played through in every order of steps.

Two or three nodes; the first leads. A step is one of: the clock ticks; a record under way lands in the log; a leader
sends a record, hears of its fate, or gives up waiting; a node reads the log; a node claims. A record may land at any
time after it was sent, or never, and its answer may come at any time after that. All clocks run alike.

What is promised (design, 3 and 5): at most one node holds a lease, and nobody else's write has been accepted that a
node with a lease does not know of.

Times are relative to now, so that equal situations are equal states: each is gone on from once, together with the
number of histories that lead to it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from replicator.protocol.lease import Lease
from replicator.protocol.roles import Event, Role, advance
from replicator.protocol.timing import Timing
from replicator.records.types import Claim
from tests.exhaustive_logs import Logs, Message, MessageKind

TIMING = Timing(heartbeat_ms=1, lease_ms=2, election_ms=3, step_ms=0, jitter_ms=0)
COPIES = 2  # of one claim under way
FIRST_EPOCH = 1  # the one in which an operator forces claims
NOW = 0
NOBODY = -1
_TRANSFER = (Role.DRAINING, Role.TRANSFERRING, Role.STEPPING_DOWN)


class Append(NamedTuple):
    """A leader waits for its answer."""

    message: Message
    sent: int
    landed: int | None  # the log that ends with it


class Node(NamedTuple):
    role: Role
    known: int  # the log as far as it was read, or written without a gap
    lease: Lease
    heard: int  # when it last received a record that counts
    append: Append | None = None
    claimed: int | None = None  # when it first sent a claim of the epoch after the one it knows
    successor: int = NOBODY  # while it transfers leadership


class State(NamedTuple):
    log: int
    under_way: tuple[Message, ...]
    nodes: tuple[Node, ...]


Step = tuple[str, State]


class Model:
    """Subclasses break a rule."""

    def __init__(self, nodes: int = 2, *, operator: bool = True, drains: bool = False) -> None:
        """`drains`: a leader that transfers leadership takes a step to drain, instead of being drained at once."""
        self.logs = Logs(nodes)
        self.operator = operator
        self.drains = drains
        leader = Node(Role.LEADER, self.logs.first, Lease(NOW), NOW)
        follower = Node(Role.FOLLOWER, self.logs.first, Lease(), NOW)
        self.start = State(self.logs.first, (), (leader, *(follower,) * (nodes - 1)))

    # What is promised

    def broken(self, state: State) -> str:
        holders = [number for number, node in enumerate(state.nodes) if self.holds_lease(node)]
        if len(holders) > 1:
            return "two nodes hold a lease"
        writes = self.logs[state.log].writes
        for holder in holders:
            known = self.logs[state.nodes[holder].known].state.offset
            if any(offset > known for author, offset in enumerate(writes) if author != holder):
                return "a node with a lease misses a write"
        return ""

    def holds_lease(self, node: Node) -> bool:
        return node.role in (Role.LEADER, Role.DRAINING) and node.lease.left_ms(NOW, TIMING.lease_ms) > 0

    # What may happen

    def steps(self, state: State) -> Iterator[Step]:
        yield "tick", State(state.log, state.under_way, tuple(map(_older, state.nodes)))
        for message in dict.fromkeys(state.under_way):
            yield f"{message.author} {message.kind} lands", self._land(state, message)
        for number, node in enumerate(state.nodes):
            if not node.role.leads:
                yield from self._reader(state, number, node)
            elif node.append is None:
                yield from self._leader(state, number, node)
            else:
                yield from self._waiting(state, number, node, node.append)

    def _land(self, state: State, message: Message) -> State:
        log = self.logs.land(state.log, message)
        node = state.nodes[message.author]
        if node.append is not None and node.append.message == message:
            node = node._replace(append=node.append._replace(landed=log))
        return _with(state, message.author, node)._replace(log=log, under_way=_without(state.under_way, message))

    def _leader(self, state: State, number: int, node: Node) -> Iterator[Step]:
        yield self._append(state, number, node, MessageKind.WRITE if self.may_write(node) else MessageKind.BEAT, number)
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

    def _transfer(self, state: State, number: int, node: Node) -> Step:
        transferring = _after(node, Event.TRANSFER_CLAIM_SENT)
        return self._append(state, number, transferring, MessageKind.HANDOVER, node.successor)

    def may_write(self, node: Node) -> bool:
        return node.lease.wait_ms(NOW) == 0

    def may_transfer(self, node: Node) -> bool:
        return node.lease.wait_ms(NOW) == 0

    def _append(self, state: State, number: int, node: Node, kind: MessageKind, leader: int) -> Step:
        message = Message(kind, number, leader, node.known)
        after = _with(state, number, node._replace(append=Append(message, NOW, None)))
        return f"{number} sends {kind}", after._replace(under_way=_and(state.under_way, message))

    def _waiting(self, state: State, number: int, node: Node, append: Append) -> Iterator[Step]:
        role, rest = node.role, node._replace(append=None)
        doubting = _after(rest, Event.APPEND_OUTCOME_UNKNOWN)._replace(claimed=None)
        yield f"{number} is in doubt", _with(state, number, doubting)
        if append.landed is None:
            if role is Role.TRANSFERRING:
                refused = _with(state, number, _after(rest, Event.TRANSFER_REFUSED))
                yield f"{number} is refused", refused._replace(under_way=_without(state.under_way, append.message))
            return
        landed = self.logs[append.landed]
        if landed.before != node.known:
            yield (
                f"{number} is misplaced",
                _with(state, number, _after(rest, Event.APPEND_MISPLACED)),
            )
            return
        assert landed.void is None, "the next offset was answered to a record that is void"
        if role is Role.TRANSFERRING:  # and will read its claim as a follower
            done = _after(rest, Event.TRANSFER_COMMITTED)._replace(heard=NOW, claimed=None)
        else:
            done = rest._replace(lease=node.lease.renewed(self.lease_from(append)), known=append.landed)
        yield f"{number} has committed", _with(state, number, done)

    def lease_from(self, append: Append) -> int:
        return append.sent

    def _reader(self, state: State, number: int, node: Node) -> Iterator[Step]:
        if node.known != state.log or node.role is Role.CHECKING:
            yield f"{number} reads", _with(state, number, self._read(state.log, number, node))
        if node.role is Role.RESOLVING:
            yield from self._claim(state, number, node, MessageKind.DOUBT)
        elif node.role is not Role.CHECKING:
            if NOW - node.heard >= TIMING.candidacy_ms(rank=0, random=0.0):
                yield from self._claim(state, number, node._replace(heard=NOW), MessageKind.ELECTION)
            if self.operator and self.logs[state.log].state.epoch == FIRST_EPOCH:
                yield from self._claim(state, number, node, MessageKind.FORCE)

    def _claim(self, state: State, number: int, node: Node, kind: MessageKind) -> Iterator[Step]:
        message = Message(kind, number, number, node.known)
        if state.under_way.count(message) < COPIES:
            claimed = self.first_sent(node)
            after = _with(state, number, _after(node, Event.CLAIM_SENT)._replace(claimed=claimed))
            yield f"{number} claims: {kind}", after._replace(under_way=_and(state.under_way, message))

    def first_sent(self, node: Node) -> int:
        return NOW if node.claimed is None else node.claimed

    def _read(self, log: int, number: int, node: Node) -> Node:
        """All that there is."""
        lease, heard, claimed = node.lease, node.heard, node.claimed
        own = self.logs.authors[number]
        for _, _, record, void, _ in self.logs.since(node.known, log):
            if record is None or void is not None:
                continue
            heard, body = NOW, record.body
            if not isinstance(body, Claim):
                if node.role is Role.CANDIDATE:
                    node = _after(node, Event.CLAIM_OUTDATED)
                elif node.role is Role.STEPPING_DOWN and record.header.author == self.logs.authors[node.successor]:
                    node = _after(node, Event.SUCCESSOR_STARTED)
                continue
            if body.leader == own:
                node = _after(node, Event.OWN_CLAIM_ACCEPTED)
                sent = claimed if record.header.author == own else None
                lease = lease.claimed(body.reason, sent, NOW, TIMING.lease_ms)
            elif node.role is Role.STEPPING_DOWN and body.leader == self.logs.authors[node.successor]:
                node = _after(node, Event.SUCCESSOR_CLAIM_ACCEPTED)
            else:
                node = _after(node, Event.OTHER_CLAIM_ACCEPTED)
            claimed = None
        if node.role is Role.CHECKING:
            node = _after(node, Event.CHECK_PASSED)
        return Node(node.role, log, lease, heard, None, claimed, node.successor)


def _after(node: Node, event: Event) -> Node:
    role = advance(node.role, event)
    return node._replace(role=role, successor=node.successor if role in _TRANSFER else NOBODY)


def _with(state: State, number: int, node: Node) -> State:
    return state._replace(nodes=(*state.nodes[:number], node, *state.nodes[number + 1 :]))


def _and(messages: tuple[Message, ...], message: Message) -> tuple[Message, ...]:
    return tuple(sorted((*messages, message)))


def _without(messages: tuple[Message, ...], message: Message) -> tuple[Message, ...]:
    place = messages.index(message)
    return messages[:place] + messages[place + 1 :]


def _older(node: Node) -> Node:
    """A tick later. What is too long ago to matter is all the same."""
    start, serve = node.lease
    append, claimed = node.append, node.claimed
    oldest = -TIMING.lease_ms
    return node._replace(
        lease=Lease(None if start is None or start - 1 <= oldest else start - 1, max(0.0, serve - 1)),
        heard=max(node.heard - 1, -TIMING.election_ms),
        append=append and append._replace(sent=max(append.sent - 1, oldest)),
        claimed=None if claimed is None else max(claimed - 1, oldest),
    )


class Explored(NamedTuple):
    histories: int  # of all steps
    states: int  # different ones
    broken: str  # the first broken promise, and the steps to it


def explore(model: Model, steps: int) -> Explored:
    """All histories of so many steps, or up to the first broken promise."""
    came_from: dict[State, tuple[State, str]] = {}
    frontier = {model.start: 1}
    states = 0
    for _ in range(steps):
        longer: dict[State, int] = {}
        for state, histories in frontier.items():
            for name, after in model.steps(state):
                known = longer.get(after)
                longer[after] = histories + (known or 0)
                if known is None and after not in came_from:
                    came_from[after] = state, name
                    broken = model.broken(after)
                    if broken:
                        return Explored(sum(longer.values()), states, f"{broken}: {_path(model, came_from, after)}")
        frontier = longer
        states += len(frontier)
    return Explored(sum(frontier.values()), states, "")


def _path(model: Model, came_from: dict[State, tuple[State, str]], state: State) -> str:
    names: list[str] = []
    while state != model.start:
        state, name = came_from[state]
        names.append(name)
    return ", ".join(reversed(names))
