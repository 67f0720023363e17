"""Thousands of short simulations, and tests that the checkers detect broken rules."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from itertools import count, islice

import pytest

from replicator.records.types import WriteMode
from replicator.testing.batch import Mutation, run_all
from replicator.testing.simulation import SimulationPlan, run
from tests import simulation_mutations as mutations
from tests.conftest import BROKEN_RULE

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
        (mutations.follower_leases_need_no_question, "not linearizable", INVALIDATE, 2690),
        (mutations.replicas_that_read_locally_no_more_are_not_waited_for, "not linearizable", SUSPEND, 1930),
        (mutations.replaced_processes_go_on, "another process has replaced it", None, 0),
        (mutations.replaced_processes_are_not_waited_for, "not linearizable", INVALIDATE, 200),
        (mutations.acks_count_whichever_process_sends_them, "not linearizable", INVALIDATE, 250),
        (mutations.processes_read_locally_before_they_are_registered, "not linearizable", INVALIDATE, 20),
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
def test_a_broken_rule_is_detected(
    mutation: Mutation,
    expected: str,
    writes: WriteMode | None,
    near: int,
    record_property: Callable[[str, object], None],
) -> None:
    plans = islice((SimulationPlan(seed, STEPS, writes=writes) for seed in count(near)), ENOUGH_SEEDS)
    found = next((report for report in run_all(plans, mutation) if _mentions(report.problems, expected)), None)
    rule = mutation.__name__.replace("_", " ")
    noticed = f"seed {found.plan.seed}: {expected.replace('|', ' or ')}" if found else "not noticed"
    record_property(BROKEN_RULE, f"{rule:<68} {noticed}")
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
