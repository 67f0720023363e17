"""Where in the log a request can have been executed, and whether the order of requests respects real time."""

from __future__ import annotations

from math import inf

import pytest

from replicator.position import BEFORE_LOG, NodeId, Offset
from replicator.protocol.log_state import LogState
from replicator.records.types import Change, Write
from replicator.server.redis.command import Args
from replicator.store.keys import encode_key
from replicator.store.values import encode_value
from replicator.testing.checks import order, watches
from replicator.testing.checks.canonical import Canonical, Place, PresentEntries, WritesAt
from replicator.testing.checks.execution import Executions
from replicator.testing.history import History, Outcome, Request

EXPIRES_MS = 1000
OLD, NEW = encode_value(b"s", b"old", EXPIRES_MS), encode_value(b"s", b"new")
WRITES: list[list[tuple[Change, ...]]] = [  # at offsets 0 to 2, one each second: transactions
    [(Change("kv", b"k", b"", None, OLD),)],
    [(Change("kv", b"k", b"", OLD, None), Change("kv", b"other", b"", None, NEW))],
    [
        (Change("kv", b"k", b"", None, OLD),),
        (Change("kv", b"third", b"", None, NEW),),
        (Change("kv", b"k", b"", OLD, NEW),),
    ],
]
APPENDED_S = [0.0, 1.0, 2.0]


def executions(clock_ms: int = EXPIRES_MS) -> Executions:
    writes = {Offset(offset): WritesAt(NodeId("n1"), tuple(map(Write, it))) for offset, it in enumerate(WRITES)}
    values: dict[bytes, list[tuple[Place, bytes | None]]] = {}
    for offset, record in writes.items():
        for nth, write in enumerate(record.writes):
            for change in write.changes:
                key = encode_key(change.table, change.row, change.field)
                values.setdefault(key, []).append((Place(offset, nth), change.new))
    return Executions(
        Canonical({}, PresentEntries(), writes, {}, {}, values, [], [], [], {}, []), lambda offset: clock_ms
    )


def request(
    lines: list[Args], reply: object, record: int = -1, called_s: float = 0.0, answered_s: float = inf
) -> Request:
    made = Request("c.0", "c", "n1", tuple(lines), called_s, in_transaction=len(lines) > 1)
    made.answer(Outcome.OK, answered_s)
    made.reply, made.record, made.state = reply, Offset(record), LogState(offset=Offset(2))
    return made


GET, SET_OTHER = [b"GET", b"k"], [b"SET", b"other", b"new"]


@pytest.mark.parametrize(
    ("made", "offset"),
    [
        (request([GET], None), BEFORE_LOG),
        (request([GET], b"old"), 0),
        (request([[b"GETEX", b"k"]], b"new"), 2),
        (request([GET], b"never written"), None),
        (request([[b"SET", b"k", b"new"]], b"OK", record=2), 2),
        (request([[b"SET", b"k", b"new", b"GET"]], None, record=2), 2),  # it met a row that had expired
        (request([[b"SET", b"k", b"new", b"GET"]], b"old", record=2), 2),  # written earlier in the same record
        (request([[b"GET", b"k"], [b"GET", b"third"]], [b"old", None]), 0),
        (request([[b"GET", b"k"], [b"GET", b"third"]], [b"old", b"new"]), 2),  # in the middle of the record
        (request([[b"SET", b"third", b"new"], [b"GET", b"k"]], [b"OK", b"old"], record=2), 2),
        (request([[b"SET", b"k", b"another"]], b"OK", record=2), None),
        (request([GET, SET_OTHER], [None, b"OK"], record=1), 1),  # it met a row that had expired
        (request([[b"DEL", b"k"], SET_OTHER], [1, b"OK"], record=1), 1),
        (request([[b"DEL", b"k"]], 1, record=1), None),  # the record has other changes, too
    ],
    ids=str,
)
def test_a_reply_is_explained_by_the_state_at_one_offset(made: Request, offset: Offset | None) -> None:
    assert executions().executed_at(made, BEFORE_LOG, Offset(2)) == offset


def test_a_row_is_not_gone_before_the_clock_of_the_leader_says_so() -> None:
    made = request([GET, SET_OTHER], [None, b"OK"], record=1)
    assert executions().record_of(made) == 1
    assert executions(EXPIRES_MS - 1).record_of(made) is None


@pytest.mark.parametrize(
    ("reads", "ordered"),
    [
        ([request([GET], b"old", -1, 0.1, 0.2), request([GET], b"new", -1, 2.1, 2.2)], True),
        ([request([GET], b"new", -1, 0.1, 2.3), request([GET], b"old", -1, 0.2, 2.2)], True),
        ([request([GET], b"new", -1, 1.9, 2.1), request([GET], b"old", -1, 2.2, 2.3)], False),
        ([request([GET], b"new", -1, 1.1, 1.9)], False),  # it is not written yet
        # the first of both rows shows that the other is gone
        ([request([[b"GET", b"other"]], b"new", -1, 1.1, 1.2), request([GET], b"old", -1, 1.3, 1.4)], False),
        ([request([[b"SET", b"k", b"new"]], b"OK", 2, 1.9, 2.1), request([GET], None, -1, 2.2, 2.3)], False),
    ],
)
def test_the_order_respects_real_time(reads: list[Request], ordered: bool) -> None:
    assert (not list(order.check(History(reads), executions(), APPENDED_S))) is ordered


@pytest.mark.parametrize(("seen", "unchanged"), [(b"old", False), (None, True)])
def test_a_watched_row_that_expires_has_changed(seen: bytes | None, unchanged: bool) -> None:
    made = request([GET, SET_OTHER], [None, b"OK"], record=1)
    made.watched = {b"k": seen}
    assert (not list(watches.check(History([made]), executions()))) is unchanged
