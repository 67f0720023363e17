"""An audit of the store finds an entry that has changed by itself, and nothing else."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from replicator.errors import Diverged, StoreUnreadable
from replicator.limits import AUDIT_ENTRIES
from replicator.records.types import Change, Write
from replicator.store.keys import encode_key
from replicator.store.machine import Machine, open_machine
from tests.damage import flip

SEED = 7


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    machine = open_machine(tmp_path / "store", "test", "topic", map_bytes=1 << 20)
    yield machine
    machine.close()


def put(machine: Machine, row: bytes, new: bytes | None) -> None:
    old = machine.view.get(encode_key("kv", row, b""))
    if (old, new) != (None, None):
        machine.apply([Write((Change("kv", row, b"", old, new),))], machine.state)


def audited(machine: Machine) -> int:
    """The number of slices."""
    slices = 1
    while not machine.audit():
        slices += 1
    return slices


def test_an_empty_store_passes(machine: Machine) -> None:
    assert audited(machine) == 1


def test_a_store_passes_in_slices(machine: Machine) -> None:
    for number in range(3 * AUDIT_ENTRIES):
        put(machine, b"row%d" % number, b"s%d" % number)
    assert audited(machine) == 3 + 1


def test_large_values_end_a_slice(machine: Machine) -> None:
    for number in range(4):
        put(machine, b"row%d" % number, b"s" + bytes(70_000))
    assert audited(machine) >= 4


def test_changes_during_an_audit_are_no_damage(machine: Machine) -> None:
    draw = random.Random(SEED)
    for number in range(2_000):
        put(machine, b"row%d" % number, b"s%d" % number)
    passes = 0
    while passes < 5:
        for _ in range(50):
            put(machine, b"row%d" % draw.randrange(3_000), draw.choice([None, b"s%d" % draw.randrange(1000)]))
        passes += machine.audit()
    digest, entries = machine.recount()
    assert (machine.meta.digest, machine.meta.entries) == (digest, entries)


@pytest.mark.parametrize("after", [0, 3, 9])
def test_one_byte_is_found(machine: Machine, after: int) -> None:
    """Wherever the audit is when the byte changes: at the latest, the next one finds it."""
    for number in range(10 * AUDIT_ENTRIES):
        put(machine, b"row%06d" % number, b"s<value %d>" % number)
    for _ in range(after):
        assert not machine.audit()
    assert flip(machine.folder, b"s<value 500>"[:-1])
    with pytest.raises(Diverged, match="faulty"):
        for _ in range(2):
            audited(machine)


def test_a_file_that_was_truncated_is_found_before_it_is_read(machine: Machine) -> None:
    for number in range(AUDIT_ENTRIES):
        put(machine, b"row%d" % number, b"s" + bytes(100))
    audited(machine)
    os.truncate(machine.folder / "data.mdb", 8192)
    with pytest.raises(StoreUnreadable, match=r"data\.mdb was truncated"):
        machine.audit()


def test_a_change_of_a_damaged_value_is_found_at_once(machine: Machine) -> None:
    put(machine, b"a", b"s<good>")
    put(machine, b"b", b"s")
    assert flip(machine.folder, b"s<good>"[:-1])
    machine.view.end_transaction()
    with pytest.raises(Diverged, match="one of them is damaged") as raised:
        machine.apply([Write((Change("kv", b"a", b"", b"s<good>", b"s"),))], machine.state)
    assert raised.value.seq == machine.state.seq + 1
