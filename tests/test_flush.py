"""FLUSHALL deletes in parts, between which other clients write."""

from __future__ import annotations

from replicator.limits import FLUSH_ENTRIES
from replicator.server.keyspace import Keyspace, WritableKeyspace
from replicator.store.view import Transaction
from tests.keyspace_fixture import NOW_MS, MemoryEntries


def flush_some(entries: MemoryEntries, start: bytes | None) -> tuple[bytes, int]:
    """As FLUSHALL does for one record. Also the number of its changes."""
    transaction = Transaction(entries)
    beyond = WritableKeyspace(transaction, NOW_MS).remove_some(start)
    return beyond, len(entries.apply(transaction).changes)


def hset(entries: MemoryEntries, row: bytes, *names: bytes, expires_at_ms: int | None = None) -> None:
    transaction = Transaction(entries)
    keyspace = WritableKeyspace(transaction, NOW_MS)
    keyspace.put_fields(row, dict.fromkeys(names, b"value"))
    if expires_at_ms is not None and (value := keyspace.header(row)) is not None:
        keyspace.set_expiry(row, value, expires_at_ms)
    entries.apply(transaction)


def check_hashes(entries: MemoryEntries) -> None:
    keyspace = Keyspace(entries, NOW_MS)
    for row, _ in keyspace.rows():
        assert keyspace.hash_size(row) == len(list(keyspace.hash_fields(row))), row


def names(count: int) -> list[bytes]:
    return [b"%06d" % number for number in range(count)]


def test_hashes_stay_whole_while_clients_write_to_them() -> None:
    """A hash whose header was deleted before its fields got another header, which did not count them."""
    entries = MemoryEntries()
    for row in (b"a", b"b", b"c"):
        hset(entries, row, *names(FLUSH_ENTRIES + 500))
    start, changes, part = None, 1, 0
    while changes:
        start, changes = flush_some(entries, start)
        assert changes <= FLUSH_ENTRIES
        check_hashes(entries)
        if part < 4:
            for row in (b"a", b"b", b"c"):
                hset(entries, row, b"%06d" % part, b"new%d" % part)
            check_hashes(entries)
        part += 1
    assert part == 6


def test_nothing_is_left_if_nobody_writes() -> None:
    entries = MemoryEntries()
    hset(entries, b"large", *names(3 * FLUSH_ENTRIES))
    hset(entries, b"expired", *names(2 * FLUSH_ENTRIES), expires_at_ms=NOW_MS - 1)
    for number in range(FLUSH_ENTRIES):
        hset(entries, b"small%d" % number, b"field")
    start, changes = None, 1
    while changes:
        start, changes = flush_some(entries, start)
    assert not entries.stored
