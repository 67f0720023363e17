"""The search for an order of single operations tells linearizable histories from others."""

from __future__ import annotations

from math import inf

import pytest

from replicator.testing.history import Outcome
from tests.linear import first_violation
from tests.register_history import Operation, OperationKind


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
    ],
)
def test_linearizable_histories_are_distinguished_from_others(history: list[Operation], linearizable: bool) -> None:
    assert (first_violation(history) is None) is linearizable
