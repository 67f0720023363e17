"""All small histories of the protocol: of the order in which records arrive, and of the expiry of leases."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any
from unittest.mock import patch

import pytest

from replicator.protocol import roles
from replicator.protocol.roles import TRANSITIONS, Event, Role
from tests import exhaustive_mutations as mutations
from tests import exhaustive_replica_leases, exhaustive_time
from tests.exhaustive_arrivals import ArrivalOrders
from tests.exhaustive_time import Model, explore

STEPS = 13  # the longest counterexample: a lease that starts with the last copy of a claim


@pytest.fixture(autouse=True)
def no_garbage() -> Iterator[None]:
    """The states have no reference cycles, and collecting among them takes a third of the time."""
    gc.disable()
    yield
    gc.enable()


@pytest.mark.timeout(300)
def test_all_readers_of_any_small_log_accept_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    orders = ArrivalOrders()
    orders.play(5)
    orders.play(5, with_leader=True)
    with capsys.disabled():
        print(f"\n{orders.histories:,} histories of 5 arrivals")
    assert orders.histories > 1_000_000


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("nodes", "operator", "steps", "least"),
    [
        pytest.param(2, False, STEPS, 50_000_000, id="two nodes"),
        pytest.param(2, True, 11, 20_000_000, id="two nodes and an operator"),
        pytest.param(3, True, 8, 2_000_000, id="three nodes and an operator"),
    ],
)
def test_a_node_with_a_lease_knows_every_accepted_write(
    nodes: int, operator: bool, steps: int, least: int, capsys: pytest.CaptureFixture[str]
) -> None:
    explored = explore(Model(nodes, operator=operator), steps)
    with capsys.disabled():
        print(
            f"\n{explored.histories:,} histories of {steps} steps, {nodes} nodes{' and an operator' * operator}: "
            f"{explored.states:,} states"
        )
    assert not explored.violation
    assert explored.histories > least


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("model", "steps", "least"),
    [
        pytest.param(lambda: Model(operator=False, changes=True), 10, 1_000_000, id="longer leases"),
        pytest.param(mutations.two_timings, 9, 1_000_000, id="shorter leases, and an operator"),
        pytest.param(mutations.new_cluster, 10, 1_000_000, id="a new cluster"),
    ],
)
def test_a_node_with_a_lease_knows_every_accepted_write_while_the_timing_changes(
    model: Callable[[], Model], steps: int, least: int, capsys: pytest.CaptureFixture[str]
) -> None:
    explored = explore(model(), steps)
    with capsys.disabled():
        print(
            f"\n{explored.histories:,} histories of {steps} steps while the timing changes: {explored.states:,} states"
        )
    assert not explored.violation
    assert explored.histories > least


def test_no_removed_replica_answers_reads_when_the_leader_writes_while_the_timing_changes() -> None:
    states, violation = exhaustive_replica_leases.explore(13)
    assert not violation
    assert states > 10_000


@pytest.mark.parametrize("patched", mutations.OF_REPLICAS.values(), ids=mutations.OF_REPLICAS.keys())
def test_a_broken_rule_is_detected_at_a_removed_replica(patched: Callable[[], AbstractContextManager[Any]]) -> None:
    with patched():
        assert exhaustive_replica_leases.explore(13)[1]


def test_the_transitions_of_roles_are_those_of_the_table() -> None:
    """Each transition is taken, and nothing else wants to be.

    But for full disks, which there are none of here, and for a third node that claims before the successor starts.
    """
    taken = set()

    def advance(role: Role, event: Event) -> Role:
        taken.add((role, event))
        return roles.advance(role, event)

    with patch.object(exhaustive_time, "advance", advance):
        explore(Model(), 10)
        explore(Model(drains=True), 8)
    possible = {(role, event) for role, event in TRANSITIONS if event is not Event.APPEND_NOT_APPLIED}
    assert taken == possible - {(Role.STEPPING_DOWN, Event.OTHER_CLAIM_ACCEPTED)}


@pytest.mark.parametrize("patched", mutations.IN_THE_LOG.values(), ids=mutations.IN_THE_LOG.keys())
def test_a_broken_rule_is_detected_in_the_log(patched: Callable[[], AbstractContextManager[Any]]) -> None:
    with patched(), pytest.raises(AssertionError):
        ArrivalOrders().play(4)


@pytest.mark.parametrize("mutation", mutations.IN_TIME.values(), ids=mutations.IN_TIME.keys())
def test_a_broken_rule_is_detected_in_time(mutation: mutations.Mutation) -> None:
    with mutation.patched():
        assert explore(mutation.model(), STEPS).violation
