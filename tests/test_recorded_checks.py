"""The checks of recorded histories report each violation, and nothing else."""

from __future__ import annotations

import pytest

from replicator.position import Offset, Token
from replicator.protocol.levels import EVENTUAL, LINEARIZABLE, Level, LevelKind
from replicator.store.keys import encode_key
from replicator.testing.checks.canonical import Canonical, PresentEntries, end_of
from replicator.testing.history import Outcome
from tests.recorded_checks import violations
from tests.recorder import BOUND_MS, Read
from tests.register_history import History, Operation, OperationKind

BOUNDED = Level(LevelKind.BOUNDED, BOUND_MS)
FIRST, SECOND = b"sw.1", b"sw.2"  # as encoded in the log, at offsets 5 and 7

CANONICAL = Canonical(
    states={},
    entries=PresentEntries(),
    writes={},
    marked={name: [end_of(Offset(offset))] for name, offset in (("w.1", 5), ("w.2", 7), ("w.4", 9))},
    once={},
    values={encode_key("kv", b"k", b""): [(end_of(Offset(5)), FIRST), (end_of(Offset(7)), SECOND)]},
    accepted=[],
    timings=[],
    memberships=[],
    commands={},
    diverged=[],
)


def session(token: int) -> Level:
    return Level(LevelKind.SESSION, token=Token("", Offset(token)))


def write(name: str, called_s: float, outcome: Outcome = Outcome.OK) -> Operation:
    operation = Operation(name, "n1", OperationKind.PUT, b"k", called_s)
    operation.answer(outcome, called_s + 0.1)
    return operation


def read(name: str, called_s: float, level: Level, value: bytes | None, least: int, most: int) -> Read:
    operation = Read(name, "n2", OperationKind.READ, b"k", called_s, level, least=Offset(least))
    operation.answer(Outcome.OK, called_s + 0.1, value=value, offset=Offset(most))
    return operation


WRITES = [write("w.1", 1.0), write("w.2", 2.0)]


@pytest.mark.parametrize(
    "allowed",
    [
        read("r.1", 2.2, EVENTUAL, FIRST, 6, 6),
        read("r.1", 2.2, EVENTUAL, None, 0, 4),
        read("r.1", 2.2, EVENTUAL, FIRST, 4, 8),
        read("r.1", 2.2, BOUNDED, FIRST, 6, 6),
        read("r.1", 9.0, BOUNDED, SECOND, 8, 8),
        read("r.1", 2.2, session(6), FIRST, 6, 6),
        read("r.1", 2.05, LINEARIZABLE, FIRST, 6, 6),
        read("r.1", 2.2, LINEARIZABLE, SECOND, 7, 7),
        write("w.3", 3.0, Outcome.REJECTED),
        write("w.3", 3.0, Outcome.UNKNOWN),
    ],
    ids=str,
)
def test_an_allowed_operation_is_not_reported(allowed: Operation) -> None:
    assert violations(History([*WRITES, allowed]), CANONICAL) == []


@pytest.mark.parametrize(
    ("forbidden", "expected"),
    [
        (read("r.1", 2.2, EVENTUAL, b"sw.3", 8, 8), "not a prefix of the log"),
        (read("r.1", 2.2, EVENTUAL, FIRST, 7, 7), "not a prefix of the log"),
        (read("r.1", 2.2, EVENTUAL, SECOND, 6, 6), "does not cover the read"),
        (read("r.1", 9.0, BOUNDED, FIRST, 6, 6), "staler than its bound"),
        (read("r.1", 2.2, session(7), FIRST, 6, 6), "behind its token"),
        (read("w.3", 2.2, session(6), FIRST, 6, 6), "a session read went backwards"),
        (read("r.1", 2.2, LINEARIZABLE, FIRST, 6, 6), "not linearizable"),
        (write("w.3", 3.0), "acknowledged but lost"),
        (write("w.4", 3.0, Outcome.REJECTED), "rejected but in the log"),
    ],
    ids=str,
)
def test_a_violation_is_reported(forbidden: Operation, expected: str) -> None:
    assert any(expected in it for it in violations(History([*WRITES, forbidden]), CANONICAL))
