"""Short simulations of clients that execute SQL on a log with commands, and tests that broken rules are detected."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from typing import NamedTuple

import pytest

from replicator.testing.batch import Mutation, run_all, worker_processes
from replicator.testing.simulation import SimulationPlan, run
from tests import sql_mutations as mutations
from tests.builds import needs_interpreted
from tests.mutation_table import BROKEN_RULE

STEPS = 7_000
SEEDS = 14
ENOUGH_SEEDS = 40  # to detect any broken rule


@pytest.fixture(scope="module")
def workers() -> Iterator[ProcessPoolExecutor]:
    with worker_processes() as workers:
        yield workers


@pytest.fixture
def without_logging() -> Iterator[None]:
    """Nodes log every fault."""
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


def test_simulations_have_no_violations(workers: ProcessPoolExecutor) -> None:
    reports = list(run_all(workers, (SimulationPlan(seed, STEPS, sql=True) for seed in range(SEEDS))))
    wrong = [str(report) for report in reports if report.problems]
    assert not wrong, "\n".join(wrong[:5])
    # they are not empty
    assert sum(report.outcomes.get("OK", 0) for report in reports) > 40 * SEEDS
    assert sum(report.commands for report in reports) > 5 * SEEDS
    assert sum(report.epochs for report in reports) > 2 * SEEDS


class BrokenRule(NamedTuple):
    mutation: Mutation
    expected: str  # one of these phrases
    near: int  # a seed shortly before one that detects it

    @property
    def name(self) -> str:
        return self.mutation.__name__.replace("_", " ")


BROKEN_RULES = [
    BrokenRule(mutations.replicas_call_functions_anew, "has digest|failed", near=0),
    BrokenRule(mutations.replicas_execute_commands_for_the_time_of_their_own_clock, "has digest|failed", near=4),
    BrokenRule(mutations.replicas_execute_the_first_command_of_a_transaction, "at the leader", near=0),
    BrokenRule(mutations.replicas_with_another_number_of_changes_go_on, "has digest|failed", near=0),
    BrokenRule(mutations.commands_are_executed_on_the_state_before_the_batch, "has digest|failed", near=0),
    BrokenRule(mutations.commands_are_executed_on_a_state_that_ends, "has ended|failed", near=0),
    BrokenRule(mutations.calls_that_are_rolled_back_stay_on_the_tape, "called random() at the leader", near=15),
    BrokenRule(mutations.left_over_calls_are_ignored, "SQLite disagrees", near=15),
    BrokenRule(mutations.commands_that_are_rolled_back_are_logged, "at the leader", near=4),
    BrokenRule(mutations.commit_does_not_read_again, "not linearizable|failed", near=15),
    BrokenRule(mutations.the_time_in_the_log_is_that_of_commit, "has digest|failed", near=2),
    BrokenRule(mutations.commands_are_logged_without_their_ids, "at the leader", near=0),
    BrokenRule(mutations.transactions_with_ids_are_logged_as_commands, "at the leader", near=0),
    BrokenRule(mutations.commands_of_a_deposed_leader_count, "has digest|failed|accepted other", near=10),
]


@needs_interpreted
@pytest.mark.usefixtures("without_logging")
@pytest.mark.parametrize("rule", BROKEN_RULES, ids=lambda rule: rule.name)
def test_a_broken_rule_is_detected(rule: BrokenRule, record_property: Callable[[str, object], None]) -> None:
    for seed in range(rule.near, rule.near + ENOUGH_SEEDS):
        with rule.mutation():
            report = run(SimulationPlan(seed, STEPS, sql=True, loss=False))
        detected = [it for it in report.problems if any(phrase in it for phrase in rule.expected.split("|"))]
        if detected:
            record_property(BROKEN_RULE, (rule.name, report.plan.seed, detected[0]))
            return
    pytest.fail(f"{ENOUGH_SEEDS} simulations did not detect it")


def test_a_seed_gives_the_same_history() -> None:
    prints = [[run(SimulationPlan(seed, 2_500, sql=True)).fingerprint for seed in range(2)] for _ in range(2)]
    assert prints[0] == prints[1]
    assert prints[0][0] != prints[0][1]
