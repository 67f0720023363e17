"""How much of the log a node applies at once."""

from __future__ import annotations

from collections.abc import Iterator

from replicator.limits import GROUP_BYTES, GROUP_CHANGES, GROUP_RECORDS, SLICE_BYTES, SLICE_ENTRIES
from replicator.log.kafka.cursor import next_slice
from replicator.log.port import Entry
from replicator.node.writes import PendingWrite, Writes
from replicator.position import Offset
from replicator.records.types import Change, Write
from tests.test_redis_connection import Entries


def slices(*sizes: int) -> Iterator[int]:
    """The number of entries of each slice of entries of those sizes."""
    entries = iter([Entry(Offset(number), b"x" * size) for number, size in enumerate(sizes)])
    while found := next_slice(entries):
        yield len(found)


def test_fetched_records_are_applied_in_slices() -> None:
    assert list(slices()) == []
    assert list(slices(*[1] * (SLICE_ENTRIES + 1))) == [SLICE_ENTRIES, 1]
    assert list(slices(SLICE_BYTES + 1, SLICE_BYTES - 1, 1, 1)) == [1, 2, 1]


def test_a_group_changes_a_bounded_number_of_entries() -> None:
    writes = Writes(Entries())
    for number, count in enumerate((GROUP_CHANGES - 1, 1, 1, 2 * GROUP_CHANGES)):
        changes = {b"%d" % it: Change("kv", b"%d" % it, b"", None, b"%d" % number) for it in range(count)}
        writes.add(PendingWrite(Write(tuple(changes.values())), b"x", changes, None, 0.0))
    found = []
    while group := writes.next(GROUP_RECORDS, GROUP_BYTES):
        writes.send(group)
        found.append([len(it.changes) for it in group])
    assert found == [[GROUP_CHANGES - 1, 1], [1], [2 * GROUP_CHANGES]]
