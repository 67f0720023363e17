"""Thousands of short simulations, and tests that the checkers detect broken rules."""

from __future__ import annotations

import os
import subprocess
import sys
from itertools import count, islice
from math import inf

import pytest

from replicator.records.types import WriteMode
from replicator.testing.batch import Mutation, run_all
from replicator.testing.checks.linear import first_violation
from replicator.testing.history import Operation, OperationKind, Outcome
from replicator.testing.simulation import SimulationPlan, run
from tests import simulation_mutations as mutations

SUSPEND, INVALIDATE = WriteMode.SUSPEND, WriteMode.INVALIDATE
STEPS = 2_500
SEEDS = 2_500
ENOUGH_SEEDS = 1_500  # to detect any broken rule


@pytest.mark.timeout(300)
def test_simulations_have_no_violations() -> None:
    reports = list(run_all(SimulationPlan(seed, STEPS) for seed in range(SEEDS)))
    wrong = [str(report) for report in reports if report.problems]
    assert not wrong, "\n".join(wrong[:5])
    assert len(reports) == SEEDS
    # they are not empty
    assert sum(report.outcomes.get("OK", 0) for report in reports) > 20 * SEEDS
    assert sum(report.outcomes.get("UNKNOWN", 0) for report in reports) > SEEDS
    assert sum(report.epochs for report in reports) > 3 * SEEDS


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("mutation", "expected", "writes", "near"),  # `near`: a seed shortly before one that detects it
    [
        (mutations.claims_need_not_have_observed, "hold a lease|not linearizable|accepted other", None, 250),
        (mutations.elections_are_shorter_than_leases, "hold a lease", None, 0),
        (mutations.leaders_ignore_what_others_wrote, "accepted other records", None, 0),
        (mutations.unknown_outcomes_count_as_rejections, "rejected but in the log", None, 0),
        (mutations.writes_are_answered_before_they_are_committed, "acknowledged but lost", None, 0),
        (mutations.leaders_read_without_a_lease, "not linearizable", None, 0),
        (mutations.repeated_records_count_again, "accepted other records|failed", None, 0),
        (mutations.stores_forget_a_change, "has digest", None, 0),
        (mutations.leases_run_from_the_last_copy_of_a_claim, "hold a lease", None, 280),
        (mutations.timings_change_whatever_leases_are_held, "hold a lease", None, 130),
        (mutations.nodes_follow_their_own_config, "hold a lease", None, 0),
        (mutations.leases_precede_the_first_timing, "hold a lease", None, 80),
        (mutations.replicas_ignore_suspensions, "not linearizable", SUSPEND, 20),
        (mutations.follower_leases_never_end, "not linearizable", SUSPEND, 680),
        (mutations.follower_leases_need_no_question, "not linearizable", INVALIDATE, 610),
        (mutations.replicas_that_read_locally_no_more_are_not_waited_for, "not linearizable", SUSPEND, 1930),
        (mutations.writes_wait_for_no_acks, "not linearizable", INVALIDATE, 0),
        (mutations.writes_are_not_announced, "not linearizable", SUSPEND, 0),
        (mutations.leaders_show_keys_in_flight, "not linearizable", WriteMode.SYNC, 0),
        (mutations.leaders_trust_what_they_inherit, "not linearizable", INVALIDATE, 400),
        (mutations.leaders_hide_rows_by_their_clock, "not linearizable", None, 0),
        (mutations.releases_wait_for_nobody, "not linearizable", INVALIDATE, 1160),
        (mutations.unacknowledged_writes_are_confirmed, "not linearizable", INVALIDATE, 190),
        (mutations.sessions_wait_for_nothing, "a session read went backwards", None, 0),
        (mutations.the_read_index_is_the_end_of_the_log, "not linearizable", None, 60),
        (mutations.leaders_answer_other_nodes_without_a_lease, "not linearizable", None, 790),
        (mutations.leaders_forget_the_append_in_flight, "not linearizable", None, 160),
        (mutations.barriers_are_not_appended, "not linearizable", None, 0),
        (mutations.bounds_are_ten_times_as_wide, "staler than its bound", None, 20),
    ],
)
def test_a_broken_rule_is_detected(mutation: Mutation, expected: str, writes: WriteMode | None, near: int) -> None:
    plans = islice((SimulationPlan(seed, STEPS, writes=writes) for seed in count(near)), ENOUGH_SEEDS)
    found = next((report for report in run_all(plans, mutation) if _mentions(report.problems, expected)), None)
    assert found is not None, f"{ENOUGH_SEEDS} simulations did not detect it"


def _mentions(problems: list[str], expected: str) -> bool:
    return any(phrase in problem for problem in problems for phrase in expected.split("|"))


def test_a_seed_gives_the_same_history_in_every_process() -> None:
    program = (
        "import logging; logging.disable(logging.CRITICAL)\n"
        "from replicator.testing.simulation import SimulationPlan, run\n"
        "print(*(run(SimulationPlan(seed, 1500)).fingerprint for seed in range(5)))"
    )
    prints = [
        subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for hash_seed in ("1", "2")
    ]
    assert prints[0] == prints[1]
    assert len(set(prints[0].split())) == 5


def test_tracing_does_not_change_the_history() -> None:
    lines: list[str] = []
    traced = run(SimulationPlan(1, 1_500), lines.append)
    assert traced.fingerprint == run(SimulationPlan(1, 1_500)).fingerprint
    assert any("holds a lease" in line for line in lines)


def operation(
    name: str, kind: OperationKind, called_s: float, answered_s: float, value: bytes | None = None, known: bool = True
) -> Operation:
    outcome = Outcome.OK if known else Outcome.UNKNOWN
    return Operation(name, "n1", kind, b"k", called_s, outcome=outcome, answered_s=answered_s, value=value)


@pytest.mark.parametrize(
    ("history", "linearizable"),
    [
        ([], True),
        ([operation("a", OperationKind.PUT, 0, 1), operation("r", OperationKind.READ, 2, 3, b"sa")], True),
        ([operation("a", OperationKind.PUT, 0, 1), operation("r", OperationKind.READ, 2, 3, None)], False),
        ([operation("a", OperationKind.PUT, 0, 5), operation("r", OperationKind.READ, 2, 3, None)], True),
        (  # two reads concurrent with a write must agree on its order
            [
                operation("a", OperationKind.PUT, 0, 9),
                operation("r", OperationKind.READ, 1, 2, b"sa"),
                operation("q", OperationKind.READ, 3, 4, None),
            ],
            False,
        ),
        (  # a write of unknown outcome may take effect much later
            [
                operation("a", OperationKind.PUT, 0, inf, known=False),
                operation("r", OperationKind.READ, 3, 4, None),
                operation("q", OperationKind.READ, 5, 6, b"sa"),
            ],
            True,
        ),
        (  # but cannot be undone
            [
                operation("a", OperationKind.PUT, 0, inf, known=False),
                operation("r", OperationKind.READ, 3, 4, b"sa"),
                operation("q", OperationKind.READ, 5, 6, None),
            ],
            False,
        ),
        (
            [
                operation("a", OperationKind.APPEND, 0, 5),
                operation("b", OperationKind.APPEND, 0, 5),
                operation("r", OperationKind.READ, 6, 7, b"sb,a"),
            ],
            True,
        ),
        (
            [
                operation("a", OperationKind.APPEND, 0, 1),
                operation("b", OperationKind.APPEND, 2, 3),
                operation("r", OperationKind.READ, 6, 7, b"sb,a"),
            ],
            False,
        ),
        (  # a row that expires may be read as gone once its removal is in the log, at 3
            [
                operation("a", OperationKind.PUT, 0, 1),
                operation("x", OperationKind.REMOVE, 3, inf, b"sa"),
                operation("r", OperationKind.READ, 2, 4, None),
            ],
            True,
        ),
        (
            [
                operation("a", OperationKind.PUT, 0, 1),
                operation("x", OperationKind.REMOVE, 3, inf, b"sa"),
                operation("r", OperationKind.READ, 1.5, 2, None),
            ],
            False,
        ),
        (  # what has replaced it stays
            [
                operation("a", OperationKind.PUT, 0, 1),
                operation("x", OperationKind.REMOVE, 2, inf, b"sa"),
                operation("b", OperationKind.PUT, 3, 4),
                operation("r", OperationKind.READ, 5, 6, None),
            ],
            False,
        ),
    ],
)
def test_linearizable_histories_are_distinguished_from_others(history: list[Operation], linearizable: bool) -> None:
    assert (first_violation(history) is None) is linearizable
