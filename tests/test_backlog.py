"""The records that a leader keeps for followers, and from where on they may receive them."""

from __future__ import annotations

import pytest

from replicator.errors import Busy, NotLeader
from replicator.node import backlog as backlog_module
from replicator.node.backlog import Backlog, Position, RecordGroup
from replicator.position import Epoch, Offset, Seq
from replicator.protocol.log_state import LogState

STATE = LogState(timeline=b"t" * 16, epoch=Epoch(2), seq=Seq(10), chain=b"chain 10", offset=Offset(20))


class Received:
    """A follower's link that keeps what it is sent."""

    def __init__(self) -> None:
        self.records: list[bytes] = []
        self.closed = False

    def send(self, group: RecordGroup) -> None:
        self.records += group.payloads

    def request_ack(self) -> None:
        self.records.append(b"ack?")

    def close(self) -> None:
        self.closed = True


def group(first: int, count: int, size: int = 10) -> RecordGroup:
    """Records with these seqs; offsets are 20 above."""
    seqs = range(first, first + count)
    payloads, chains = [b"record %d" % seq for seq in seqs], [b"chain %d" % seq for seq in seqs]
    return RecordGroup(Offset(first + 20), Seq(first), payloads, chains, size)


def position(seq: int, chain: bytes = b"", epoch: int = 2, timeline: bytes = b"t" * 16) -> Position:
    return Position(timeline, Epoch(epoch), Seq(seq), chain or b"chain %d" % seq)


@pytest.mark.parametrize(("seq", "offset", "records"), [(10, 31, 5), (11, 32, 4), (12, 33, 3), (13, 34, 2), (15, 0, 0)])
def test_a_follower_receives_what_follows_its_position(seq: int, offset: int, records: int) -> None:
    backlog, link = Backlog(), Received()
    with backlog.term(STATE):
        backlog.add(group(11, 2))
        backlog.add(group(13, 3))
        first = backlog.follow(position(seq), link)
        assert sum(len(it.payloads) for it in first) == records
        for it in first:
            link.send(it)
        if first:
            assert (first[0].base, first[0].seq) == (offset, seq + 1)
        backlog.add(group(16, 1))
    assert link.records == [b"record %d" % it for it in range(seq + 1, 17)]
    assert link.closed


def test_a_group_from_the_middle_on_is_a_group_of_its_own() -> None:
    rest = group(11, 4).after(Seq(12))
    assert (rest.base, rest.seq, rest.last_seq) == (33, 13, 14)
    assert rest.payloads == [b"record 13", b"record 14"] and rest.chains == [b"chain 13", b"chain 14"]
    assert rest.size == len(b"record 13record 14")


@pytest.mark.parametrize(
    "asked", [position(10, epoch=1), position(10, epoch=3), position(10, timeline=b"u" * 16)], ids=str
)
def test_only_a_follower_of_this_term_receives_records(asked: Position) -> None:
    backlog = Backlog()
    with backlog.term(STATE), pytest.raises(NotLeader, match="does not lead epoch"):
        backlog.follow(asked, Received())
    with pytest.raises(NotLeader):
        backlog.follow(position(10), Received())


@pytest.mark.parametrize("asked", [position(9), position(14), position(10, b"other"), position(12, b"other")], ids=str)
def test_a_follower_with_another_past_or_too_far_away_is_refused(asked: Position) -> None:
    backlog, link = Backlog(), Received()
    with backlog.term(STATE):
        backlog.add(group(11, 3))
        with pytest.raises(Busy, match="read the log"):
            backlog.follow(asked, link)
        backlog.add(group(14, 1))
    assert not link.records and not link.closed


def test_the_oldest_groups_are_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backlog_module, "BACKLOG_BYTES", 25)
    backlog = Backlog()
    with backlog.term(STATE):
        for first in (11, 13, 15):
            backlog.add(group(first, 2))
        with pytest.raises(Busy):
            backlog.follow(position(11), Received())
        assert [it.seq for it in backlog.follow(position(12), Received())] == [13, 15]
        backlog.add(group(17, 1, size=1000))  # one larger group is kept
        assert [it.seq for it in backlog.follow(position(16), Received())] == [17]


def test_a_follower_that_has_left_receives_nothing() -> None:
    backlog, left, stays = Backlog(), Received(), Received()
    with backlog.term(STATE):
        for link in (left, stays):
            backlog.follow(position(10), link)
        backlog.unfollow(left)
        backlog.add(group(11, 1))
        backlog.request_acks()
    assert not left.records and not left.closed
    assert stays.records == [b"record 11", b"ack?"]


def test_a_new_term_knows_nothing_of_the_one_before() -> None:
    backlog = Backlog()
    with backlog.term(STATE):
        backlog.add(group(11, 1))
    with backlog.term(STATE._replace(epoch=Epoch(3), seq=Seq(12), chain=b"chain 12")):
        assert not backlog.follow(position(12, epoch=3), Received())
        with pytest.raises(Busy):
            backlog.follow(position(11, epoch=3), Received())
