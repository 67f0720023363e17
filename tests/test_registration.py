"""Which process counts as a node: the rule, and all orders in which requests of a few processes can arrive."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import NamedTuple

import pytest

from replicator.address import Address
from replicator.errors import BadRequest
from replicator.position import Author, NodeId
from replicator.protocol.registration import NOBODY, is_replaced, registered, with_registration
from replicator.records.types import Member, Membership, Mode, Policy, WriteMode

N1, N2 = NodeId("n1"), NodeId("n2")
LEADER = Author(N1, 10)


def process(incarnation: int, host: str = "a", mode: Mode = Mode.ASYNC) -> Member:
    """Of n2."""
    return Member(N2, mode, Address(host, 1), Address(host, 2), 0, incarnation)


def members(*known: Member) -> Membership:
    return Membership(known, Policy(WriteMode.SYNC))


@pytest.mark.parametrize(
    ("known", "asked", "replaces", "after"),
    [
        ((), process(7), NOBODY, process(7)),
        ((process(NOBODY, mode=Mode.JOINING),), process(7, "b"), NOBODY, process(7, "b", Mode.JOINING)),
        ((process(6, mode=Mode.SYNC),), process(7, "b"), 6, process(7, "b", Mode.SYNC)),
        ((process(7, mode=Mode.SYNC),), process(7, "b"), 6, process(7, "b", Mode.SYNC)),
    ],
    ids=["new", "added by an operator", "in the place of another", "repeated"],
)
def test_a_process_is_registered(known: tuple[Member, ...], asked: Member, replaces: int, after: Member) -> None:
    assert with_registration(members(*known), asked, replaces, LEADER) == members(after)


@pytest.mark.parametrize(
    ("known", "replaces"),
    [((process(8),), 6), ((process(8),), NOBODY), ((), 6)],
    ids=["another came first", "another was the first of all", "the member was removed"],
)
def test_a_process_that_has_not_read_the_membership_is_refused(known: tuple[Member, ...], replaces: int) -> None:
    with pytest.raises(BadRequest, match=r"another process has registered as n2|n2 was removed"):
        with_registration(members(*known), process(7), replaces, LEADER)


def test_a_leader_lets_no_other_process_take_its_place() -> None:
    leader = replace(process(10), node=N1)
    with pytest.raises(BadRequest, match="n1 is the leader and runs in another process, at a:1: stop that process"):
        with_registration(members(leader), replace(leader, incarnation=11), 10, LEADER)
    assert with_registration(members(), leader, NOBODY, LEADER) == members(leader)


@pytest.mark.parametrize(
    ("known", "replaced"),
    [((), False), ((NOBODY,), False), ((7,), False), ((6,), False), ((8,), True)],
    ids=["not a member", "added by an operator", "itself", "the one it replaces", "another"],
)
def test_only_a_registration_of_another_process_replaces_one(known: tuple[int, ...], replaced: bool) -> None:
    assert is_replaced(members(*map(process, known)), Author(N2, 7), 6) is replaced


class Request(NamedTuple):
    incarnation: int
    replaces: int


class World(NamedTuple):
    """Some processes of n2, started at any time. The leader's log has one membership after each registration."""

    log: tuple[int, ...]  # the incarnations that have registered
    requests: frozenset[Request]  # each may arrive at any time, any number of times
    read: tuple[int, ...]  # how much of the log each process has read
    asked: tuple[int | None, ...]  # what each process first asked to replace

    def membership(self, at: int) -> Membership:
        return members(*map(process, self.log[at - 1 : at]))

    def stopped(self, at: int) -> bool:
        asked = self.asked[at]
        return asked is not None and any(
            is_replaced(self.membership(read), Author(N2, at + 1), asked) for read in range(self.read[at] + 1)
        )


Register = Callable[[Membership, Member, int, Author], Membership]


def steps(world: World, register: Register) -> Iterator[World]:
    for at, read in enumerate(world.read):
        if read < len(world.log):
            yield world._replace(read=(*world.read[:at], read + 1, *world.read[at + 1 :]))
        if not world.stopped(at):
            replaces = registered(world.membership(read), N2)
            asked = replaces if world.asked[at] is None else world.asked[at]
            yield world._replace(
                requests=world.requests | {Request(at + 1, replaces)},
                asked=(*world.asked[:at], asked, *world.asked[at + 1 :]),
            )
    for request in world.requests:
        before = world.membership(len(world.log))
        try:
            after = register(before, process(request.incarnation), request.replaces, LEADER)
        except BadRequest:
            continue
        if after != before and len(world.log) < 5:
            yield world._replace(log=(*world.log, request.incarnation))


def returning(register: Register, processes: int = 3) -> tuple[World | None, int]:
    """A world in which a process that was replaced has come back, and how many worlds were explored."""
    first = World((), frozenset(), (0,) * processes, (None,) * processes)
    seen, waiting = {first}, deque([first])
    while waiting:
        for world in steps(waiting.popleft(), register):
            if len(set(world.log)) < len(world.log):
                return world, len(seen)
            if world not in seen:
                seen.add(world)
                waiting.append(world)
    return None, len(seen)


def test_a_process_that_was_replaced_never_comes_back_whatever_request_is_late() -> None:
    found, explored = returning(with_registration)
    assert found is None
    assert explored > 1_000


def test_without_the_incarnation_that_a_request_replaces_a_late_one_would_win_back() -> None:
    def register(membership: Membership, member: Member, replaces: int, leader: Author) -> Membership:
        return with_registration(membership, member, registered(membership, member.node), leader)

    found, _ = returning(register)
    assert found is not None
