"""The LMDB store: offsets, digests, snapshots, and the operations it refuses."""

from __future__ import annotations

import os
import resource
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replicator.address import Address
from replicator.errors import (
    BadRequest,
    ConfigError,
    Diverged,
    LogDamage,
    SnapshotError,
    StoreError,
    StoreFull,
    StoreUnreadable,
)
from replicator.local.process import identify
from replicator.position import Author, Epoch, NodeId, Offset, Seq
from replicator.protocol.log_state import LogState
from replicator.records.types import Change, Checkpoint, Member, Membership, Mode, Write
from replicator.store import boot, environment, snapshot
from replicator.store.keys import decode_key, encode_key, row_range, table_range
from replicator.store.machine import Machine, has_followed_a_log, open_machine, read_meta
from replicator.store.snapshot import Manifest
from replicator.store.values import decode_value, encode_value
from tests.copies import restore_copy
from tests.damage import flip

PAGE = 4096
ROWS = [b"row%05d" % number for number in range(5000)]


def write(row: bytes, old: bytes | None, new: bytes | None, field: bytes = b"") -> Write:
    return Write((Change("kv", row, field, old, new),))


def state_at(offset: int) -> LogState:
    author = Author(NodeId("n1"), 7)
    return LogState(b"t" * 16, Epoch(1), author, Seq(offset + 1), b"c" * 8, Offset(offset), Offset(offset))


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    machine = open_machine(tmp_path / "store", "test", "topic", map_bytes=64 << 10)
    yield machine
    machine.close()


@given(st.text(min_size=1, max_size=5).filter(lambda t: "\0" not in t), st.binary(max_size=60), st.binary(max_size=60))
def test_an_encoded_key_is_decoded_to_the_same_key(table: str, row: bytes, field: bytes) -> None:
    assert decode_key(encode_key(table, row, field)) == (table, row, field)


@given(st.binary(max_size=8), st.binary(max_size=8), st.binary(max_size=8), st.binary(max_size=8))
def test_keys_sort_by_row_then_field(row: bytes, field: bytes, row2: bytes, field2: bytes) -> None:
    first, second = encode_key("t", row, field), encode_key("t", row2, field2)
    assert (first < second) == ((row, field) < (row2, field2))
    start, stop = row_range("t", row)
    assert (start <= second < stop) == (row == row2)
    low, high = table_range("t")
    assert low <= first < high


@given(st.sampled_from([b"s", b"h"]), st.binary(max_size=20), st.none() | st.integers(0, 2**63 - 1))
def test_an_encoded_value_is_decoded_to_the_same_value(tag: bytes, data: bytes, expires_at_ms: int | None) -> None:
    assert decode_value(encode_value(tag, data, expires_at_ms)) == (tag, data, expires_at_ms)


def test_the_maximum_key_length_is_that_of_lmdb() -> None:
    room = 511 - len(encode_key("kv", b"", b""))
    assert len(encode_key("kv", b"k" * room, b"")) == 511
    with pytest.raises(BadRequest, match="the limit is 511"):
        encode_key("kv", b"k" * (room + 1), b"")


def test_the_map_grows_while_batches_are_applied(machine: Machine) -> None:
    machine.apply([write(row, None, b"s" + bytes(1000)) for row in ROWS], state_at(4999))
    assert machine.meta.entries == len(ROWS)
    assert machine.recount() == (machine.meta.digest, len(ROWS))


def test_offset_digest_and_rows_survive_a_restart(tmp_path: Path) -> None:
    machine = open_machine(tmp_path, "test", "topic")
    machine.apply([write(b"a", None, b"s1"), write(b"a", None, b"f1", b"field")], state_at(1))
    machine.apply([write(b"a", b"s1", b"s2"), write(b"b", None, b"s")], state_at(3))
    machine.apply([Membership((Member(NodeId("n1"), Mode.SYNC, Address("a", 1), Address("::1", 2), 0),))], state_at(4))
    before = machine.meta
    machine.close()
    again = open_machine(tmp_path, "test", "topic")
    try:
        assert again.meta == before
        assert again.state == state_at(4)
        assert (again.meta.entries, again.view.rows("kv")) == (3, 2)
        assert [key for key, _ in again.view.scan(*table_range("kv"))] == [
            encode_key("kv", b"a", b""),
            encode_key("kv", b"a", b"field"),
            encode_key("kv", b"b", b""),
        ]
        removals = [write(b"a", b"s2", None), write(b"a", b"f1", None, b"field"), write(b"b", b"s", None)]
        again.apply(removals, state_at(7))
        assert (again.meta.digest, again.meta.entries, again.view.rows("kv")) == (0, 0, 0)
    finally:
        again.close()


def test_a_change_from_another_value_is_a_divergence_and_changes_nothing(machine: Machine) -> None:
    machine.apply([write(b"a", None, b"s1")], state_at(0))
    before = machine.meta
    changes = [(b"a", None, b"s2"), (b"a", b"s9", b"s2"), (b"a", b"s9", None), (b"b", b"s", None)]
    for wrong in (write(*change) for change in changes):
        with pytest.raises(Diverged):
            machine.apply([write(b"c", None, b"s"), wrong], state_at(2))
    assert machine.meta == before
    assert machine.view.get(encode_key("kv", b"c", b"")) is None


def test_a_checkpoint_is_compared_at_its_offset(machine: Machine) -> None:
    machine.apply([write(b"a", None, b"s1")], state_at(0))
    right = Checkpoint(machine.meta.digest, 1)
    machine.apply([right, write(b"b", None, b"s1")], state_at(2))
    with pytest.raises(Diverged, match="checkpoint"):
        machine.apply([right], state_at(3))


def test_expired_rows_are_found_in_order_and_removed_with_their_values(machine: Machine) -> None:
    def put(row: bytes, old: bytes | None, expires: int | None) -> bytes:
        new = encode_value(b"s", b"1", expires)
        machine.apply([write(row, old, new)], state_at(0))
        return new

    late, soon = put(b"late", None, 2000), put(b"soon", None, 1000)
    assert machine.next_expiry_ms() == 1000
    assert machine.expired(1500, 10) == [encode_key("kv", b"soon", b"")]
    assert len(machine.expired(5000, 10)) == 2
    put(b"soon", soon, None)
    assert machine.next_expiry_ms() == 2000
    machine.apply([write(b"late", late, None)], state_at(1))
    assert machine.next_expiry_ms() is None


def test_nothing_is_applied_on_a_full_disk_until_there_is_space(machine: Machine) -> None:
    machine.apply([write(b"a", None, b"s1")], state_at(0))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    big = [write(row, None, b"s" + bytes(1000)) for row in ROWS]
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, hard))
    try:
        with pytest.raises(StoreFull, match="free some space"):
            machine.apply(big, state_at(5000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert machine.state == state_at(0)
    assert machine.view.get(encode_key("kv", b"a", b"")) == b"s1"
    machine.apply(big, state_at(5000))
    assert machine.recount() == (machine.meta.digest, 5001)


def test_a_store_has_one_owner(tmp_path: Path, machine: Machine) -> None:
    with pytest.raises(StoreError, match="in use by another process"):
        open_machine(tmp_path / "store", "test", "topic")


def test_a_store_of_another_cluster_or_topic_is_refused(tmp_path: Path) -> None:
    machine = open_machine(tmp_path, "test", "topic")
    machine.apply([write(b"a", None, b"s1")], state_at(0))
    machine.close()
    with pytest.raises(StoreError, match="belongs to cluster test"):
        open_machine(tmp_path, "other", "topic")
    with pytest.raises(LogDamage, match="deleted and recreated"):
        open_machine(tmp_path, "test", "another topic")


def test_the_store_is_discarded_after_a_crash_of_the_system(tmp_path: Path) -> None:
    machine = open_machine(tmp_path, "test", "topic")
    machine.apply([write(b"a", None, b"s1")], state_at(0))
    machine.close()
    assert not (tmp_path / boot.MARK).exists()
    (tmp_path / boot.MARK).write_text(boot.boot_id())  # killed during this boot: its writes are in the page cache
    machine = open_machine(tmp_path, "test", "topic")
    assert machine.state.offset == 0
    machine.close()
    (tmp_path / boot.MARK).write_text("another boot")
    machine = open_machine(tmp_path, "test", "topic")
    assert machine.state == LogState()
    machine.close()


def test_a_store_that_a_crash_of_the_system_has_damaged_is_not_read(tmp_path: Path) -> None:
    machine = open_machine(tmp_path, "test", "topic")
    machine.apply([write(row, None, b"s" * 5000) for row in ROWS], state_at(0))
    machine.close()
    with (tmp_path / "data.mdb").open("r+b") as file:
        file.truncate(8192)  # the pages behind were never written: to read them is SIGBUS
    (tmp_path / boot.MARK).write_text("another boot")
    assert read_meta(tmp_path) is None and has_followed_a_log(tmp_path)
    machine = open_machine(tmp_path, "test", "topic")
    assert machine.state == LogState()
    machine.close()


def fill(folder: Path, rows: int) -> None:
    machine = open_machine(folder, "test", "topic")
    machine.apply([write(row, None, b"s" * 5000) for row in ROWS[:rows]], state_at(0))
    machine.close()


@pytest.mark.parametrize("pages", [2, 3, 50, -1])
def test_a_file_that_was_truncated_is_noticed_before_it_is_read(tmp_path: Path, pages: int) -> None:
    fill(tmp_path, 200)
    file = tmp_path / "data.mdb"
    os.truncate(file, pages * PAGE if pages > 0 else file.stat().st_size + pages)
    for read in (lambda: open_machine(tmp_path, "test", "topic"), lambda: read_meta(tmp_path)):
        with pytest.raises(StoreUnreadable, match=r"data\.mdb was truncated"):
            read()
    with pytest.raises(StoreUnreadable), environment.read_only(tmp_path):
        pass
    assert has_followed_a_log(tmp_path)


def test_an_intact_file_may_end_before_pages_that_are_free(tmp_path: Path) -> None:
    """LMDB does not write what one transaction allocates and frees."""
    fill(tmp_path, 200)
    machine = open_machine(tmp_path, "test", "topic")
    large = b"s" * 500_000
    machine.apply([write(b"a", None, large), write(b"a", large, None)], state_at(1))
    last_page = machine._env.info()["last_pgno"]
    machine.close()
    assert (tmp_path / "data.mdb").stat().st_size < last_page * PAGE
    open_machine(tmp_path, "test", "topic").close()
    os.truncate(tmp_path / "data.mdb", (tmp_path / "data.mdb").stat().st_size - PAGE)
    with pytest.raises(StoreUnreadable):
        open_machine(tmp_path, "test", "topic")


def test_damaged_metadata_are_noticed(tmp_path: Path) -> None:
    machine = open_machine(tmp_path, "test", "topic")
    machine.apply([write(ROWS[0], None, b"s")], state_at(0))
    machine.close()
    assert flip(tmp_path, b'"seq"')
    with pytest.raises(StoreUnreadable, match="the metadata of the store is damaged"):
        open_machine(tmp_path, "test", "topic")
    assert has_followed_a_log(tmp_path)


@pytest.mark.parametrize("undamaged_bytes", [0, 8192], ids=["head", "pages"])
def test_a_damaged_store_is_refused_so_that_it_is_rebuilt(tmp_path: Path, undamaged_bytes: int) -> None:
    machine = open_machine(tmp_path, "test", "topic")
    machine.apply([write(row, None, b"s" * 500) for row in ROWS], state_at(0))
    machine.close()
    with (tmp_path / "data.mdb").open("r+b") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(undamaged_bytes)
        file.write(b"\xff" * (size - undamaged_bytes))
    assert has_followed_a_log(tmp_path)
    with pytest.raises(StoreUnreadable, match=f"{tmp_path} cannot be read .* a node rebuilds it"):
        open_machine(tmp_path, "test", "topic")
    for name in ("data.mdb", "lock.mdb"):
        (tmp_path / name).unlink()
    machine = open_machine(tmp_path, "test", "topic")  # the lock was released
    assert machine.state == LogState()
    machine.close()


def test_the_mark_is_on_the_disk_before_the_store_is_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[str] = []
    genuine = environment.open_environment
    monkeypatch.setattr(boot, "sync", lambda path: steps.append(path.name))

    def open_environment(folder: Path, map_bytes: int) -> object:
        steps.append("open")
        return genuine(folder, map_bytes)

    monkeypatch.setattr(environment, "open_environment", open_environment)
    machine = open_machine(tmp_path / "store", "test", "topic")
    assert steps == [boot.MARK, "store", "open"]
    machine.close()
    assert steps[3:] == ["store"]  # without its mark


def test_a_store_follows_a_log_once_it_has_read_it(tmp_path: Path) -> None:
    assert not has_followed_a_log(tmp_path)
    open_machine(tmp_path, "test", "topic").close()
    assert not has_followed_a_log(tmp_path)
    machine = open_machine(tmp_path, "test", "topic")
    machine.apply([write(b"a", None, b"s1")], state_at(0))
    machine.close()
    assert has_followed_a_log(tmp_path)


def test_a_store_that_is_refused_keeps_no_mark(tmp_path: Path) -> None:
    machine = open_machine(tmp_path, "test", "topic")
    machine.apply([write(b"a", None, b"s1")], state_at(0))
    machine.close()
    with pytest.raises(StoreError):
        open_machine(tmp_path, "other", "topic")
    assert not (tmp_path / boot.MARK).exists()


def test_a_restored_store_is_discarded_after_a_crash_of_the_system(tmp_path: Path, machine: Machine) -> None:
    machine.apply([write(b"a", None, b"s1")], state_at(0))
    manifest = snapshot.take(machine.copy_to, tmp_path / "snapshots")
    restore_copy(tmp_path / "snapshots" / manifest.name, tmp_path / "new")
    assert boot.is_marked(tmp_path / "new")  # its file may not be on the disk yet
    (tmp_path / "new" / boot.MARK).write_text("another boot")
    assert read_meta(tmp_path / "new") is None


def test_a_node_knows_that_its_store_is_being_replaced(tmp_path: Path, machine: Machine) -> None:
    machine.apply([write(b"a", None, b"s1")], state_at(0))
    store = tmp_path / "new"
    assert not environment.is_being_replaced(store)
    with environment.replacing(store) as file:
        assert environment.is_being_replaced(store)
        with pytest.raises(StoreError, match="in use by another process"):
            open_machine(store, "test", "topic")
        machine.copy_to(tmp_path)
        (tmp_path / "data.mdb").rename(file)
    assert not environment.is_being_replaced(store)
    open_machine(store, "test", "topic").close()


def test_a_process_that_was_killed_replaces_nothing(tmp_path: Path, machine: Machine) -> None:
    machine.apply([write(b"a", None, b"s1")], state_at(0))
    killed = os.fork()
    if killed == 0:
        with environment.replacing(tmp_path / "new") as file:
            file.write_bytes(b"half")
            os._exit(0)
    os.waitpid(killed, 0)
    assert (tmp_path / "new" / "data.mdb.new").exists()
    assert not environment.is_being_replaced(tmp_path / "new")
    opened = open_machine(tmp_path / "new", "test", "topic")
    assert opened.meta.entries == 0
    assert not environment.is_being_replaced(tmp_path / "new")  # but open: a second process is refused at once
    assert not (tmp_path / "new" / "data.mdb.new").exists()
    opened.close()


def test_a_snapshot_has_an_offset_and_can_be_restored(tmp_path: Path, machine: Machine) -> None:
    machine.apply([write(row, None, b"s1") for row in ROWS], state_at(41))
    machine.reserve_for_copy()
    manifest = snapshot.take(machine.copy_to, tmp_path / "snapshots")
    assert (manifest.offset, manifest.entries, manifest.cluster) == (41, len(ROWS), "test")
    assert manifest.state == machine.state
    assert snapshot.take(machine.copy_to, tmp_path / "snapshots") == manifest  # the same state is not copied again
    machine.apply([write(b"later", None, b"s1")], state_at(42))
    later = snapshot.take(machine.copy_to, tmp_path / "snapshots")
    assert {it.name for it in (tmp_path / "snapshots").iterdir()} == {later.name, manifest.name}
    restore_copy(tmp_path / "snapshots" / manifest.name, tmp_path / "new")
    restored = open_machine(tmp_path / "new", "test", "topic")
    try:
        assert restored.state == state_at(41)
        assert restored.recount() == (int(manifest.digest, 16), len(ROWS))
    finally:
        restored.close()


def test_a_copy_that_is_not_as_its_manifest_says_is_refused(tmp_path: Path, machine: Machine) -> None:
    machine.apply([write(b"a", None, b"s1")], state_at(0))
    manifest = snapshot.take(machine.copy_to, tmp_path / "snapshots")
    copy = tmp_path / "snapshots" / manifest.name
    snapshot.check_meta(snapshot.meta_of(copy), manifest)
    earlier = replace(manifest, leader="", incarnation=0, leader_offset=0)  # by a version that did not write these
    assert earlier.state is None
    snapshot.check_meta(snapshot.meta_of(copy), earlier)
    with pytest.raises(SnapshotError, match="the state of the log of snapshot"):
        snapshot.check_meta(snapshot.meta_of(copy), replace(manifest, leader="n9"))
    for change in ({"cluster": "other"}, {"offset": 1}, {"chain": "00"}, {"digest": "0" * 32}, {"entries": 2}):
        with pytest.raises(SnapshotError, match=f"the {next(iter(change))} of snapshot {manifest.name} is "):
            snapshot.check_meta(snapshot.meta_of(copy), replace(manifest, **change))
    (copy / "manifest.json").unlink()
    with pytest.raises(SnapshotError, match="not a complete snapshot"):
        snapshot.read_manifest(copy)
    with pytest.raises(SnapshotError, match="there is no snapshot nope: see `replicator snapshot list`"):
        snapshot.read_manifest(copy.with_name("nope"))
    with pytest.raises(SnapshotError, match="cannot be read"):
        snapshot.meta_of(copy.with_name("nope"))


def test_the_content_of_a_copy_is_compared_with_its_digest(tmp_path: Path, machine: Machine) -> None:
    machine.apply([write(b"a", None, b"s" + b"1" * 100)], state_at(0))
    copy = tmp_path / "snapshots" / snapshot.take(machine.copy_to, tmp_path / "snapshots").name
    snapshot.check_content(copy)
    data = (copy / "data.mdb").read_bytes()
    (copy / "data.mdb").write_bytes(data.replace(b"1" * 100, b"1" * 99 + b"2"))
    with pytest.raises(SnapshotError, match=r"1 entries have the digest .*: use another one"):
        snapshot.check_content(copy)


def test_a_copy_that_the_disk_has_no_space_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = open_machine(tmp_path / "store", "test", "topic")
    machine.apply([write(row, None, b"s1") for row in ROWS], state_at(0))
    machine.apply([Write(tuple(Change("kv", row, b"", b"s1", None) for row in ROWS[100:]))], state_at(1))
    machine.close()
    copies, usage = tmp_path / "copies", shutil.disk_usage(tmp_path)

    def take() -> Manifest:
        return snapshot.take(lambda folder: environment.copy(tmp_path / "store", folder), copies)

    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=5_000))
    with pytest.raises(StoreFull, match=r"needs \d+ bytes in .*, and 5000 are free: free some space there"):
        take()
    assert list(copies.iterdir()) == []
    size = (tmp_path / "store" / "data.mdb").stat().st_size
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=size // 4))  # free pages are not copied
    assert take().bytes < size // 4


def test_an_empty_store_makes_no_snapshot(tmp_path: Path, machine: Machine) -> None:
    with pytest.raises(SnapshotError, match="still empty"):
        snapshot.take(machine.copy_to, tmp_path / "snapshots")
    assert list((tmp_path / "snapshots").iterdir()) == []


def test_a_system_that_is_not_linux_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(boot, "_BOOT_ID", tmp_path / "missing")
    for start in (lambda: open_machine(tmp_path, "test", "log"), lambda: identify(os.getpid())):
        with pytest.raises(ConfigError, match="nodes run on Linux only"):
            start()
