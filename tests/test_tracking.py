"""What a transaction has read is compared at its end, whatever others do in between."""

from __future__ import annotations

import pytest

from replicator.errors import TransactionTooLarge
from replicator.limits import MAX_TRACKED_BYTES, MAX_TRACKED_ENTRIES
from replicator.store.tracking import TrackedEntries
from replicator.store.view import Transaction
from tests.sql_fixture import SortedEntries

TABLE = "t"


class State(SortedEntries):
    def put(self, row: bytes, value: bytes | None) -> bytes:
        """Returns the store key."""
        transaction = Transaction(self)
        transaction.put(TABLE, row, b"", value)
        (key,) = transaction.changes
        self.apply(transaction)
        return key


@pytest.fixture
def state() -> State:
    state = State()
    for number in range(100):
        state.put(b"%03d" % number, b"%d" % number)
    return state


@pytest.fixture
def tracked(state: State) -> TrackedEntries:
    tracked = TrackedEntries()
    tracked.base = state
    return tracked


def rows(entries: list[tuple[bytes, bytes]]) -> list[int]:
    return [int(value) for _, value in entries]


def test_an_entry_that_changes_and_changes_back_is_the_same_at_each_read(state: State, tracked: TrackedEntries) -> None:
    key = state.put(b"k", b"1")
    assert tracked.get(key) == b"1"
    state.put(b"k", b"2")
    assert tracked.get(key) == b"1"
    assert not tracked.unchanged(state)
    state.put(b"k", b"1")
    assert tracked.get(key) == b"1" and tracked.unchanged(state)


def test_the_number_of_rows_is_the_same_at_each_read(state: State, tracked: TrackedEntries) -> None:
    assert tracked.rows(TABLE) == 100
    state.put(b"k", b"1")
    assert tracked.rows(TABLE) == 100 and not tracked.unchanged(state)
    state.put(b"k", None)
    assert tracked.unchanged(state)


@pytest.mark.parametrize("reverse", [False, True])
def test_a_scan_goes_on_although_the_state_changes(state: State, tracked: TrackedEntries, reverse: bool) -> None:
    expected = [*range(100)][:: -1 if reverse else 1]
    found = []
    for entry in tracked.scan(b"", b"\xff", reverse=reverse):
        found.append(entry)
        state.put(b"other", b"%d" % len(found))
        state.put(b"other", None)
    assert rows(found) == expected and tracked.unchanged(state)


@pytest.mark.parametrize(("changed", "was_read"), [(b"000", True), (b"022", True), (b"050", False), (b"new", False)])
def test_a_change_during_a_scan(state: State, tracked: TrackedEntries, changed: bytes, was_read: bool) -> None:
    """Entries are read in batches: the 20th is in the one that ends with the 23rd."""
    for number, _ in enumerate(tracked.scan(b"", b"\xff")):
        if number == 20:
            state.put(changed, b"1000")
    assert tracked.unchanged(state) is not was_read


def test_what_a_scan_did_not_reach_may_change(state: State, tracked: TrackedEntries) -> None:
    scan = tracked.scan(b"", b"\xff")
    for _ in range(10):
        next(scan)
    state.put(b"010", b"x")
    assert tracked.unchanged(state)
    state.put(b"009", b"x")
    assert not tracked.unchanged(state)


def test_scans_that_find_nothing_count(state: State, tracked: TrackedEntries) -> None:
    with pytest.raises(TransactionTooLarge, match="at most 20000 entries: divide it"):
        for _ in range(MAX_TRACKED_ENTRIES + 1):
            assert not [*tracked.scan(b"x", b"y")]


def test_the_last_key_is_found_at_once_after_many_were_removed(state: State, tracked: TrackedEntries) -> None:
    transaction = Transaction(tracked)
    keys = [key for key, _ in state.scan(b"", b"\xff")]
    bounds = keys[0], keys[-1] + b"\xff"
    mark = transaction.mark()
    for number in range(99, 0, -1):
        transaction.put(TABLE, b"%03d" % number, b"", None)
    assert transaction.last(*bounds) == keys[0]
    read = state.read
    for number in range(1, 50):
        transaction.put(TABLE, b"%03d" % number, b"", b"new")
        assert transaction.last(*bounds) == keys[number]
    assert state.read - read < 300
    transaction.put(TABLE, b"049", b"", None)
    assert transaction.last(*bounds) == keys[48]
    transaction.roll_back_to(mark)
    assert transaction.last(*bounds) == keys[-1] and transaction.last(b"x", b"y") is None


def test_there_is_a_limit(state: State, tracked: TrackedEntries) -> None:
    with pytest.raises(TransactionTooLarge, match="at most 20000 entries: divide it"):
        for _ in range(MAX_TRACKED_ENTRIES // 100 + 1):
            for _ in tracked.scan(b"", b"\xff"):
                pass


def test_what_is_read_by_keys_is_limited_in_bytes() -> None:
    entries = SortedEntries()
    tracked = TrackedEntries()
    tracked.base = entries
    entries.values = {b"%d" % number: bytes(1 << 20) for number in range((MAX_TRACKED_BYTES >> 20) + 1)}
    with pytest.raises(TransactionTooLarge, match="MiB by keys"):
        for key in entries.values:
            tracked.get(key)
