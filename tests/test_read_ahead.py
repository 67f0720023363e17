"""The part of the readers of a change stream that has no I/O."""

from __future__ import annotations

import pytest

from replicator.errors import ConfigError, LogDamage
from replicator.position import Epoch, Offset, Seq
from replicator.store.rows import KEYSPACE_TABLE, Image
from replicator.stream import Change, Op, Source, StreamPosition, TransactionBlock
from replicator.stream.envelope import StreamFormat
from replicator.stream.json_envelope import JsonFormat
from replicator.stream.opening import OpenedStream
from replicator.stream.outage import OutageDetector
from replicator.stream.read_ahead import ReadAhead
from replicator.stream.settings import StreamSettings

SETTINGS = StreamSettings("topic id", "log id", StreamFormat.JSON)
LIMIT = 100


def opened(partitions: int = 1, ends: tuple[int, ...] = (), *, is_exact: bool = True) -> OpenedStream:
    start = StreamPosition("topic id", (0,) * partitions)
    return OpenedStream("shop.changes", SETTINGS, start, is_exact, ends or (0,) * partitions)


def change(offset: int, order: int = 1, changes: int = 1, op: Op = Op.CREATE) -> bytes:
    source = Source("shop", "00" * 16, Epoch(1), Offset(offset), Seq(offset), order - 1, 0)
    block = None if op is Op.READ else TransactionBlock(order, changes, order)
    return JsonFormat().encode(Change(op, KEYSPACE_TABLE, b"k", None, None, Image("string", b""), source, block))


def positions(changes: list[Change] | None) -> list[str] | None:
    return None if changes is None else [str(it.position) for it in changes]


class TestPosition:
    def test_it_is_after_what_was_taken_and_not_after_what_was_fetched(self) -> None:
        ahead = ReadAhead(opened(2), follow=True)
        ahead.add(0, 0, change(1))
        ahead.add(1, 0, change(2))
        ahead.add(0, 1, change(3))
        assert ahead.position.next_offsets == (0, 0)
        assert positions(ahead.take(1)) == ["1-0"]
        assert ahead.position.next_offsets == (1, 0)
        assert ahead.lag([2, 1]) == 2
        assert positions(ahead.take(LIMIT)) == ["2-0", "3-0"]
        assert ahead.position.next_offsets == (2, 1)

    def test_it_passes_tombstones_and_markers_once_nothing_before_them_is_left(self) -> None:
        ahead = ReadAhead(opened(), follow=True)
        ahead.add(0, 0, change(1))
        ahead.add(0, 1, None)
        ahead.passed(0, 3)
        assert ahead.position.next_offsets == (0,)
        ahead.take(1)
        assert ahead.position.next_offsets == (3,)
        ahead.passed(0, 5)
        ahead.passed(0, 4)
        assert ahead.position.next_offsets == (5,)

    def test_it_stays_before_a_message_that_is_not_a_change(self) -> None:
        ahead = ReadAhead(opened(), follow=True)
        ahead.add(0, 0, change(1))
        ahead.add(0, 1, b"hello")
        ahead.add(0, 2, change(2))
        assert positions(ahead.take(LIMIT)) == ["1-0"]
        for _ in range(2):
            with pytest.raises(LogDamage, match="offset 1 of partition 0"):
                ahead.take(LIMIT)
            with pytest.raises(LogDamage, match="offset 1 of partition 0"):
                ahead.take_transaction()
        assert ahead.position.next_offsets == (1,)


class TestEnd:
    def test_a_stream_that_is_followed_has_none(self) -> None:
        assert not ReadAhead(opened(), follow=True).has_ended

    def test_an_empty_stream_has_ended_at_once(self) -> None:
        assert ReadAhead(opened(3), follow=False).has_ended

    def test_it_is_reached_once_all_partitions_were_read_and_taken(self) -> None:
        ahead = ReadAhead(opened(2, (2, 1)), follow=False)
        ahead.add(0, 0, change(1))
        ahead.passed(0, 2)
        assert not ahead.has_ended
        ahead.passed(1, 1)
        assert not ahead.has_ended
        ahead.take(LIMIT)
        assert ahead.has_ended

    def test_later_changes_are_left_to_the_next_reader(self) -> None:
        ahead = ReadAhead(opened(1, (1,)), follow=False)
        ahead.add(0, 0, change(1))
        ahead.add(0, 1, change(2))
        ahead.passed(0, 3)
        assert positions(ahead.take(LIMIT)) == ["1-0"]
        assert ahead.has_ended
        assert ahead.position.next_offsets == (1,)


class TestTransactions:
    def test_they_are_taken_whole_or_not_at_all(self) -> None:
        ahead = ReadAhead(opened(), follow=True)
        ahead.add(0, 0, change(1, 1, 2))
        assert ahead.take_transaction() is None
        ahead.add(0, 1, change(1, 2, 2))
        ahead.add(0, 2, change(2))
        assert positions(ahead.take_transaction()) == ["1-0", "1-1"]
        assert positions(ahead.take_transaction()) == ["2-0"]
        assert ahead.take_transaction() is None

    def test_changes_of_a_snapshot_are_alone(self) -> None:
        ahead = ReadAhead(opened(), follow=True)
        ahead.add(0, 0, change(1, op=Op.READ))
        ahead.add(0, 1, change(1, 2, op=Op.READ))
        assert positions(ahead.take_transaction()) == ["1-0"]

    def test_one_that_began_before_the_earliest_change_is_left_out(self) -> None:
        ahead = ReadAhead(opened(is_exact=False), follow=True)
        ahead.add(0, 0, change(1, 2, 3))
        assert ahead.take_transaction() is None
        ahead.add(0, 1, change(1, 3, 3))
        assert ahead.take_transaction() is None
        ahead.add(0, 2, change(2))
        assert positions(ahead.take_transaction()) == ["2-0"]

    @pytest.mark.parametrize("is_exact", [True, False])
    def test_one_whose_first_changes_were_taken_is_an_error(self, is_exact: bool) -> None:
        ahead = ReadAhead(opened(is_exact=is_exact), follow=True)
        for order in (1, 2):
            ahead.add(0, order, change(1, order, 2))
        ahead.take(1)
        with pytest.raises(ConfigError, match="position 1-1 is inside of a transaction"):
            ahead.take_transaction()


class TestOutage:
    def test_only_time_without_an_answer_counts(self) -> None:
        outage = OutageDetector(1.0)
        assert not outage.is_outage(False, 1, 5.0)  # it has answered
        assert not outage.is_outage(False, 1, 0.6)
        assert not outage.is_outage(True, 1, 0.6)
        assert not outage.is_outage(False, 1, 0.6)
        assert not outage.is_outage(False, 2, 0.6)
        assert not outage.is_outage(False, 2, 0.6)
        assert outage.is_outage(False, 2, 0.6)

    def test_it_is_new_until_it_is_reported_again(self) -> None:
        outage = OutageDetector(1.0)
        assert not outage.is_new
        assert outage.is_outage(False, 0, 1.0) and outage.is_new
        assert not outage.is_outage(False, 0, 0.5)
        assert outage.is_outage(False, 0, 0.5) and not outage.is_new
        assert not outage.is_outage(False, 1, 0.0)
        assert outage.is_outage(False, 1, 1.0) and outage.is_new
