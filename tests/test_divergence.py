"""The demonstration of the tape: replicas without it differ, and those with it do not."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace

from replicator.local.progress import NO_PROGRESS
from replicator.records.tape import Call, Player
from replicator.server.redis.execution import Replay
from replicator.testing.divergence import (
    CHECKPOINTS,
    LEADER,
    WITH_TAPE,
    WITHOUT_TAPE,
    DivergenceReport,
    IgnoredTape,
    demonstrate_divergence,
)
from replicator.testing.divergence_load import PLAIN_SHARE


def test_exactly_the_replicas_without_the_tape_differ() -> None:
    report = demonstrate_divergence(2_000, 1, 2, NO_PROGRESS)
    assert report.is_as_expected and len(report.checkpoints) == CHECKPOINTS
    for number, it in enumerate(report.checkpoints, 1):
        digests = it.digests
        assert {digests[id] for id in WITH_TAPE} == {digests[LEADER]}
        are_equal = number <= PLAIN_SHARE * CHECKPOINTS
        assert all((digests[id] == digests[LEADER]) is are_equal for id in WITHOUT_TAPE)
    for replica in report.replicas:
        assert replica.has_tape is (replica.id in WITH_TAPE)
        if not replica.has_tape:
            assert replica.found_at == PLAIN_SHARE * CHECKPOINTS + 1 and "has digest" in replica.problem
            assert {it.table for it in replica.entries} == {"kv", "sql.accounts", "sql.events"}
            assert replica.entries[-1].row.startswith("rowid ")
            assert len(replica.entries) == 6 < replica.differing


def test_a_replica_with_the_tape_that_differs_is_not_as_expected() -> None:
    report = demonstrate_divergence(100, 2, 1, NO_PROGRESS)
    with_tape = next(it for it in report.replicas if it.has_tape)
    for changed in (
        replace(with_tape, found_at=1),
        replace(with_tape, differing=1),
        replace(with_tape, has_tape=False),
    ):
        assert not DivergenceReport(100, (), (changed,)).is_as_expected


def test_nodes_repeat_the_calls_of_the_tape() -> None:
    assert Replay()._play is Player
    assert IgnoredTape([Call("random", 1)]).call("random", lambda: 2) == 2


def test_the_command() -> None:
    line = [sys.executable, "-m", "replicator", "demo", "divergence", "--commands", "500"]
    done = subprocess.run(line, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "r1: differs, found at checkpoint 3" in done.stdout and "r4: equal" in done.stdout
    done = subprocess.run([*line, "--json"], capture_output=True, text=True, timeout=120)
    assert json.loads(done.stdout)["as_expected"] is True
