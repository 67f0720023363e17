"""The pure rules of the protocol one by one; `test_protocol_exhaustive` explores their combinations."""

from __future__ import annotations

from itertools import product

import pytest

from replicator.errors import LogDamage
from replicator.position import Author, Epoch, NodeId, Offset, Seq
from replicator.protocol.acceptance import DATA_RULES, Damage, judge
from replicator.protocol.claims import CLAIM_RULES
from replicator.protocol.lease import Lease
from replicator.protocol.log_state import LogState, Void
from replicator.protocol.roles import TRANSITIONS, Event, ImpossibleEvent, Role, advance
from replicator.protocol.timing import MAX_DRIFT
from replicator.records.chain import GENESIS, link
from replicator.records.types import VERSION, Claim, Header, Reason, Record, Write

TIMELINE, OTHER_TIMELINE = b"t" * 16, b"u" * 16
LEADER, OTHER = Author(NodeId("n1"), 1), Author(NodeId("n2"), 2)
RESTARTED = Author(NodeId("n1"), 3)
STATE = LogState(TIMELINE, Epoch(3), LEADER, Seq(10), b"c" * 8, Offset(20), Offset(18))
BODY = b"body"
NEXT = Offset(21)


def data(epoch: int, author: Author, seq: int, timeline: bytes, chain: bytes) -> Record:
    return Record(Header(VERSION, timeline, Epoch(epoch), author, Seq(seq), 0, chain), Write(()), BODY)


def claim(
    reason: Reason, author: Author, leader: Author, observed: int, epoch: int = 4, chain: bytes = STATE.chain
) -> Record:
    header = Header(VERSION, TIMELINE, Epoch(epoch), author, STATE.seq, 0, chain)
    return Record(header, Claim(leader, Epoch(epoch), Offset(observed), reason), BODY)


def verdict(record: Record, state: LogState = STATE) -> Void | str | None:
    try:
        return judge(state, NEXT, record)[1]
    except LogDamage as damage:
        return str(damage)


def test_a_data_record_is_accepted_if_and_only_if_no_rule_of_the_table_applies() -> None:
    due = link(STATE.chain, BODY)
    fields = product((2, 3, 4), (LEADER, OTHER, RESTARTED), (9, 10, 11, 12), (TIMELINE, OTHER_TIMELINE), (due, GENESIS))
    seen = set()
    for record in (data(*each) for each in fields):
        expected = next((rule.verdict for rule in DATA_RULES if rule.holds(STATE, record.header, due)), None)
        found = verdict(record)
        assert f"has {expected}:" in str(found) if isinstance(expected, Damage) else found == expected
        seen.add(expected)
    assert seen == {None, *(rule.verdict for rule in DATA_RULES)}


def test_the_first_rule_that_applies_decides() -> None:
    assert "has not begun: found 4" in str(verdict(data(4, OTHER, 1, OTHER_TIMELINE, GENESIS)))
    assert verdict(data(2, OTHER, 1, OTHER_TIMELINE, GENESIS)) is Void.OTHER_EPOCH
    assert verdict(data(3, OTHER, 1, OTHER_TIMELINE, GENESIS)) is Void.NOT_THE_LEADER
    assert verdict(data(3, LEADER, 10, OTHER_TIMELINE, GENESIS)) is Void.REPEATED
    assert "another timeline: found 7575" in str(verdict(data(3, LEADER, 12, OTHER_TIMELINE, GENESIS)))
    assert "a gap in seq: found 12, expected 11" in str(verdict(data(3, LEADER, 12, TIMELINE, GENESIS)))
    assert f"expected {link(STATE.chain, BODY).hex()}" in str(verdict(data(3, LEADER, 11, TIMELINE, GENESIS)))


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        (claim(Reason.ELECTION, OTHER, OTHER, 18), None),
        (claim(Reason.ELECTION, OTHER, OTHER, 17), Void.OUTDATED),
        (claim(Reason.ELECTION, OTHER, RESTARTED, 18), Void.NOT_THE_LEADER),
        (claim(Reason.FIRST, OTHER, OTHER, -1), Void.OUTDATED),
        (claim(Reason.RESOLVE, LEADER, LEADER, 0), None),
        (claim(Reason.RESOLVE, RESTARTED, RESTARTED, 20), Void.NOT_THE_LEADER),
        (claim(Reason.HANDOVER, LEADER, OTHER, 0), None),
        (claim(Reason.HANDOVER, OTHER, OTHER, 20), Void.NOT_THE_LEADER),
        (claim(Reason.FORCE, OTHER, OTHER, 0), None),
        (claim(Reason.FORCE, OTHER, OTHER, 20, epoch=3), Void.OTHER_EPOCH),
        (claim(Reason.ELECTION, OTHER, OTHER, 18, chain=GENESIS), Void.OTHER_PAST),
        (claim(Reason.RESOLVE, LEADER, LEADER, 18, chain=GENESIS), Void.OTHER_PAST),
        (claim(Reason.RESOLVE, LEADER, LEADER, 17, chain=GENESIS), None),  # it had read less: nothing to compare
        (claim(Reason.FORCE, OTHER, OTHER, 20, chain=GENESIS), Void.OTHER_PAST),
    ],
)
def test_a_claim_is_judged_by_the_rule_of_its_reason(record: Record, expected: Void | None) -> None:
    assert verdict(record) == expected


def test_a_claim_beyond_the_next_epoch_is_damage() -> None:
    found = str(verdict(claim(Reason.FORCE, OTHER, OTHER, 20, epoch=5)))
    assert "an epoch that has not begun: found 5, expected 3, or a claim of 4" in found


def test_every_reason_has_a_rule() -> None:
    assert set(CLAIM_RULES) == set(Reason)


def test_a_claim_of_another_timeline_is_damage() -> None:
    header, body, encoded = claim(Reason.FORCE, OTHER, OTHER, 0)
    assert "another timeline" in str(verdict(Record(header._replace(timeline=OTHER_TIMELINE), body, encoded)))


def test_a_lease_starts_when_the_record_is_sent_and_expires_exactly() -> None:
    lease = Lease(from_ms=100.0)
    assert lease.left_ms(100, lease_ms=600) == 600
    assert lease.left_ms(699, lease_ms=600) == 1
    assert lease.left_ms(700, lease_ms=600) == lease.left_ms(9_000, lease_ms=600) == 0
    assert lease.renewed(650).left_ms(700, lease_ms=600) == 550


def test_a_leader_that_has_sent_no_record_has_no_lease() -> None:
    given = Lease(from_ms=100).claimed(Reason.HANDOVER, sent_ms=None, read_ms=200, lease_ms=600)
    assert given.left_ms(200, lease_ms=600) == 0
    assert given.renewed(210).left_ms(210, lease_ms=600) == 600


def test_an_own_claim_gives_a_lease_that_starts_when_it_was_sent() -> None:
    assert Lease().claimed(Reason.ELECTION, sent_ms=100, read_ms=300, lease_ms=600).left_ms(300, 600) == 400


def test_a_forced_leader_waits_for_the_old_lease_on_the_slowest_clock() -> None:
    forced = Lease().claimed(Reason.FORCE, sent_ms=100, read_ms=200, lease_ms=600)
    free_ms = 200 + 600 * (1 + MAX_DRIFT)
    assert forced.wait_ms(200) == free_ms - 200
    renewed = forced.renewed(free_ms - 10)
    assert renewed.left_ms(free_ms - 1, lease_ms=600) == 0
    assert renewed.left_ms(free_ms, lease_ms=600) == 590
    assert renewed.wait_ms(free_ms) == 0


def test_resolving_does_not_shorten_the_wait_of_a_forced_leader() -> None:
    forced = Lease().claimed(Reason.FORCE, sent_ms=100, read_ms=200, lease_ms=600)
    again = forced.claimed(Reason.RESOLVE, sent_ms=250, read_ms=260, lease_ms=600)
    assert again.serve_from_ms == forced.serve_from_ms


def test_every_role_can_be_entered_and_left() -> None:
    for role in Role:
        assert any(to is role and was is not role for (was, _), to in TRANSITIONS.items())
        assert any(was is role and to is not role for (was, _), to in TRANSITIONS.items())
    assert {event for _, event in TRANSITIONS} == set(Event)


def test_a_node_becomes_leader_by_an_accepted_claim_or_remains_leader() -> None:
    ways = {(was, event) for (was, event), to in TRANSITIONS.items() if to is Role.LEADER}
    assert {event for _, event in ways} == {
        Event.OWN_CLAIM_ACCEPTED,
        Event.CHECK_PASSED,
        Event.TRANSFER_REFUSED,
        Event.TRANSFER_TIMED_OUT,
    }
    assert {was for was, event in ways if event is Event.CHECK_PASSED} == {Role.CHECKING}
    assert {event for was, event in ways if was is Role.RESOLVING} == {Event.OWN_CLAIM_ACCEPTED}


@pytest.mark.parametrize("role", [role for role in Role if role not in (Role.DRAINING, Role.TRANSFERRING)])
def test_a_claim_for_another_node_ends_every_role_that_may_read_one(role: Role) -> None:
    assert advance(role, Event.OTHER_CLAIM_ACCEPTED) is Role.FOLLOWER


def test_an_impossible_event_is_reported() -> None:
    with pytest.raises(ImpossibleEvent, match=r"resolving cannot handle CHECK_PASSED .* only CLAIM_SENT, OWN_CLAIM"):
        advance(Role.RESOLVING, Event.CHECK_PASSED)
