"""A repository of snapshots, as a folder and on a server of S3: one suite for both."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
import zstandard

from replicator.cli.options import open_repository
from replicator.errors import (
    BrokerUnavailable,
    ConfigError,
    RepositoryUnavailable,
    SnapshotError,
    StoreError,
    StoreFull,
)
from replicator.limits import PART_BYTES
from replicator.local.folder import ClusterFile, ClusterFolder
from replicator.local.progress import NO_PROGRESS
from replicator.local.snapshots import best, delete, newest, newest_before, newest_of_log, prune, restore_node
from replicator.local.stores import prepare_store
from replicator.log.kafka.security import PLAINTEXT
from replicator.log.memory import MemoryLog
from replicator.position import Offset
from replicator.protocol.log_state import LogState
from replicator.recovery.roll_forward import RecoveryTarget
from replicator.snapshots import restoring, transfer, verification
from replicator.snapshots.listing import listed
from replicator.snapshots.objects import Objects, shown_url
from replicator.snapshots.repository import (
    FailedVerification,
    FolderUnusable,
    Repository,
    StoredSnapshot,
    Unfinished,
    Verification,
)
from replicator.snapshots.verification import Check, LogAccess, verify_and_note
from replicator.store import boot, environment, snapshot
from replicator.store.machine import Machine, open_machine, read_meta
from replicator.store.snapshot import Manifest
from tests.s3_server import s3_server
from tests.test_store import state_at, write

ROWS = 2_000


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    with s3_server() as url:
        yield url


@pytest.fixture(params=["folder", "s3"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "folder":
        return str(tmp_path / "repository")
    return f"{request.getfixturevalue('bucket')}/{uuid.uuid4().hex}"


@pytest.fixture
def repository(url: str) -> Repository:
    return Repository(url)


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfer, "PART_BYTES", 64 << 10)


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    machine = open_machine(tmp_path / "store", "shop", "topic")
    machine.apply([write(b"row%05d" % it, None, b"s" + os.urandom(100)) for it in range(ROWS)], state_at(41))
    yield machine
    machine.close()


@pytest.fixture
def copy(tmp_path: Path, machine: Machine) -> tuple[Path, Manifest]:
    taken = snapshot.take(machine.copy_to, tmp_path / "taken")
    return tmp_path / "taken" / taken.name, taken


def ignore(size: int) -> None:
    pass


def restore(repository: Repository, stored: StoredSnapshot, store: Path, on_received: Callable[[int], None]) -> None:
    restoring.restore(repository, restoring.only(stored), store, lambda stored: on_received)


def manifests(repository: Repository) -> list[Manifest]:
    return [it.manifest for it in listed(repository)]


def publish(repository: Repository, copy: tuple[Path, Manifest]) -> StoredSnapshot:
    return repository.publish(*copy, ignore)


class TestPublishing:
    def test_a_snapshot_is_restored_as_it_was(
        self, repository: Repository, copy: tuple[Path, Manifest], tmp_path: Path
    ) -> None:
        sent: list[int] = []
        stored = repository.publish(*copy, sent.append)
        assert len(stored.parts) > 2
        assert sum(sent) == stored.bytes == copy[1].bytes
        assert manifests(repository) == [stored.manifest]
        received: list[int] = []
        restore(repository, repository.get(stored.name), tmp_path / "new", received.append)
        assert sorted(received) == sorted(sent)
        restored = open_machine(tmp_path / "new", "shop", "topic")
        try:
            assert restored.state == state_at(41)
            assert restored.recount() == (int(copy[1].digest, 16), ROWS)
        finally:
            restored.close()

    def test_the_newest_one_is_the_first(
        self, repository: Repository, machine: Machine, copy: tuple[Path, Manifest]
    ) -> None:
        first = publish(repository, copy)
        machine.apply([write(b"later", None, b"s1")], state_at(42))
        folder = copy[0].parent
        later = snapshot.take(machine.copy_to, folder)
        second = repository.publish(folder / later.name, later, ignore)
        assert manifests(repository) == [second.manifest, first.manifest]
        repository.delete(first.name)
        assert manifests(repository) == [second.manifest]
        repository.delete(first.name)  # once more

    def test_an_interrupted_upload_goes_on(
        self, repository: Repository, copy: tuple[Path, Manifest], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        written: list[str] = []
        write_object = Objects.write

        def fail_after_two(objects: Objects, path: str, data: bytes) -> None:
            if len(written) == 2:
                raise RepositoryUnavailable("cut off")
            write_object(objects, path, data)
            written.append(path)

        monkeypatch.setattr(transfer, "TRANSFERS", 1)
        monkeypatch.setattr(Objects, "write", fail_after_two)
        with pytest.raises(RepositoryUnavailable, match="cut off"):
            publish(repository, copy)
        assert manifests(repository) == []
        with pytest.raises(Unfinished, match="not complete"):
            repository.get(copy[1].name)

        before = list(written)

        def note(objects: Objects, path: str, data: bytes) -> None:
            written.append(path)
            write_object(objects, path, data)

        monkeypatch.setattr(Objects, "write", note)
        stored = publish(repository, copy)
        assert not set(written[2:]) & set(before)
        assert len(written) == len(stored.parts) + 1
        assert written[-1].endswith("manifest.json")

    def test_one_that_is_there_is_not_sent_again(
        self, repository: Repository, copy: tuple[Path, Manifest], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        stored = publish(repository, copy)
        monkeypatch.delattr(Objects, "write")
        assert publish(repository, copy) == stored

    def test_unfinished_ones_are_deleted_once_they_are_old(
        self, repository: Repository, url: str, copy: tuple[Path, Manifest]
    ) -> None:
        stored = publish(repository, copy)
        other = f"{43:020d}-{'a' * 8}"
        Objects(url).write(f"{other}/part-00000-{'0' * 16}.zst", b"x")
        assert repository.delete_unfinished(older_than_s=3600) == []
        assert repository.delete_unfinished(older_than_s=-60) == [other]
        assert manifests(repository) == [stored.manifest]

    def test_parts_that_are_deleted_meanwhile(
        self, repository: Repository, url: str, copy: tuple[Path, Manifest], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """By another snapshotter, as the upload was interrupted a day ago."""
        write_object = Objects.write

        def write_and_lose(objects: Objects, path: str, data: bytes) -> None:
            if path.endswith("manifest.json"):
                for part in objects.sizes(copy[1].name):
                    objects.delete(f"{copy[1].name}/{part}")
            write_object(objects, path, data)

        with monkeypatch.context() as patched:
            patched.setattr(Objects, "write", write_and_lose)
            with pytest.raises(RepositoryUnavailable, match=r"deleted from .* while it was uploaded: try again"):
                publish(repository, copy)
        assert manifests(repository) == []
        assert publish(repository, copy).has_all(Objects(url).sizes(copy[1].name))

    def test_an_incomplete_one_is_completed(
        self, repository: Repository, url: str, copy: tuple[Path, Manifest]
    ) -> None:
        stored = publish(repository, copy)
        Objects(url).delete(f"{stored.name}/{stored.parts[1].name}")
        assert publish(repository, copy) == stored
        assert stored.has_all(Objects(url).sizes(stored.name))

    def test_one_of_the_same_name_of_another_log(self, repository: Repository, copy: tuple[Path, Manifest]) -> None:
        publish(repository, copy)
        with pytest.raises(SnapshotError, match="of another log, of cluster shop: use a repository for each cluster"):
            repository.publish(copy[0], replace(copy[1], topic_id="another"), ignore)

    @pytest.mark.parametrize(
        "content",
        [
            *("[" * 100_000, "[]", '{"verified_at_ms": "x", "by": ""}', "{}", "\x00", "5", '{"failure": 1}'),
            '{"failed_at_ms": "x", "by": "", "failure": ""}',
        ],
    )
    def test_a_verification_without_sense(
        self, repository: Repository, url: str, copy: tuple[Path, Manifest], content: str
    ) -> None:
        stored = publish(repository, copy)
        Objects(url).write(f"{stored.name}/verification.json", content.encode())
        assert repository.verification(stored.name) is None

    def test_old_ones_are_counted_for_each_log(self, repository: Repository, copy: tuple[Path, Manifest]) -> None:
        for offset, topic in ((1, "old"), (2, "old"), (3, "new"), (4, "new")):
            name = f"{offset:020d}-{'a' * 8}"
            repository.publish(copy[0], replace(copy[1], name=name, offset=offset, topic_id=topic), ignore)
            repository.note_verification(name, Verification(offset, "n1"))
        deleted = prune(repository, "shop", keep=1, keep_s=0, unfinished_s=3600)
        assert sorted(int(name[:20]) for name in deleted) == [1, 3]

    def test_the_newest_one_of_a_cluster(self, repository: Repository, copy: tuple[Path, Manifest]) -> None:
        """A restored cluster has lower offsets than the former one, and the same repository."""
        for offset, cluster in ((1, "shop-2"), (2, "shop"), (3, "shop")):
            name = f"{offset:020d}-{'a' * 8}"
            repository.publish(copy[0], replace(copy[1], name=name, offset=offset, cluster=cluster), ignore)
        assert [newest(repository, it).manifest.offset for it in ("shop-2", "shop", None)] == [1, 3, 3]
        with pytest.raises(SnapshotError, match="there is no snapshot of cluster other in"):
            newest(repository, "other")

    def test_those_of_a_former_log_are_older(self, repository: Repository, copy: tuple[Path, Manifest]) -> None:
        """The topic was deleted, and the new log has lower offsets."""
        for offset, log, taken_s in ((900, "former", 1), (950, "former", 2), (50, "present", 3), (60, "present", 4)):
            name = f"{offset:020d}-{'a' * 8}"
            of = replace(copy[1], name=name, offset=offset, topic_id=log, taken_at_ms=taken_s * 1000)
            repository.publish(copy[0], of, ignore)
            if log == "former":
                repository.note_verification(name, Verification(1, "n1"))

        def chosen(target: RecoveryTarget | None) -> int:
            return newest_before(repository, "shop", target).manifest.offset

        def at(seconds: float) -> datetime:
            return datetime.fromtimestamp(seconds, UTC)

        assert [it.manifest.offset for it in listed(repository, cluster="shop")] == [60, 50, 950, 900]
        assert newest(repository, "shop").manifest.offset == newest(repository, None).manifest.offset == 60
        assert best(repository, "shop")(()).manifest.offset == 60  # not verified yet
        assert [chosen(it) for it in (None, Offset(1000), Offset(55))] == [60, 60, 50]
        assert [chosen(at(it)) for it in (5, 3.5, 2.5, 1.5)] == [60, 50, 950, 900]
        with pytest.raises(SnapshotError, match=r"no snapshot of cluster shop before that .* is at offset 50"):
            chosen(Offset(49))
        for offset in (50, 60):
            repository.note_verification(f"{offset:020d}-{'a' * 8}", FailedVerification(1, "n1", "digest: …"))
        with pytest.raises(SnapshotError, match="has no snapshot of cluster shop that can be used"):
            best(repository, "shop")(())

    def test_those_of_the_cluster_are_listed_first(self, repository: Repository, copy: tuple[Path, Manifest]) -> None:
        for offset, cluster in ((1, "shop-2"), (2, "shop-2"), (50, "shop"), (60, "older"), (51, "shop")):
            name, taken_ms = f"{offset:020d}-{'a' * 8}", {"shop-2": 3000, "shop": 2000, "older": 1000}[cluster] + offset
            of = replace(copy[1], name=name, offset=offset, cluster=cluster, taken_at_ms=taken_ms)
            repository.publish(copy[0], of, ignore)

        def offsets(cluster: str | None) -> list[int]:
            return [it.manifest.offset for it in listed(repository, cluster=cluster)]

        assert offsets("shop-2") == offsets(None) == [2, 1, 51, 50, 60]
        assert offsets("older") == [60, 2, 1, 51, 50]

    def test_a_verification_is_kept(self, repository: Repository, copy: tuple[Path, Manifest]) -> None:
        stored = publish(repository, copy)
        assert repository.verification(stored.name) is None
        result = Verification(1, "n1")
        repository.note_verification(stored.name, result)
        assert repository.verification(stored.name) == result
        assert manifests(repository) == [stored.manifest]

    def test_a_failed_verification_replaces_the_former_one(
        self, repository: Repository, copy: tuple[Path, Manifest]
    ) -> None:
        for offset in (1, 2):
            name = f"{offset:020d}-{'a' * 8}"
            repository.publish(copy[0], replace(copy[1], name=name, offset=offset), ignore)
            repository.note_verification(name, Verification(offset, "n1"))
        failed = FailedVerification(3, "n1", "checksums: part-00000 does not match its checksum")
        repository.note_verification(name, failed)
        assert repository.verification(name) == failed
        assert not repository.is_verified(name)
        assert [(it.verified_at_ms, it.failure) for it in listed(repository)] == [(None, failed.failure), (1, "")]
        assert prune(repository, "shop", keep=1, keep_s=0, unfinished_s=3600) == []

    def test_one_that_failed_is_sent_again(self, repository: Repository, url: str, copy: tuple[Path, Manifest]) -> None:
        stored = publish(repository, copy)
        path = f"{stored.name}/{stored.parts[1].name}"
        good = Objects(url).read(path, 1 << 20)
        Objects(url).write(path, good[:-1])
        repository.note_verification(stored.name, FailedVerification(1, "n1", "checksums: …"))
        assert publish(repository, copy) == stored
        assert Objects(url).read(path, 1 << 20) == good
        assert repository.verification(stored.name) is None

    def test_one_that_has_lost_parts_does_not_replace_others(
        self, repository: Repository, url: str, copy: tuple[Path, Manifest]
    ) -> None:
        for offset in (1, 2):
            name = f"{offset:020d}-{'a' * 8}"
            stored = repository.publish(copy[0], replace(copy[1], name=name, offset=offset), ignore)
            repository.note_verification(name, Verification(offset, "n1"))
        assert repository.missing_parts(name) == []
        path = f"{name}/{stored.parts[0].name}"
        Objects(url).write(path, Objects(url).read(path, 1 << 20)[:-1])
        assert repository.missing_parts(name) == [stored.parts[0].name]
        assert prune(repository, "shop", keep=1, keep_s=0, unfinished_s=3600) == []

    def test_the_sizes_of_the_parts_may_be_unknown(
        self, repository: Repository, url: str, copy: tuple[Path, Manifest]
    ) -> None:
        """As in a manifest of an earlier version."""
        stored = publish(repository, copy)
        fields = asdict(stored)
        del fields["stored_bytes"]
        Objects(url).write(f"{stored.name}/manifest.json", json.dumps(fields).encode())
        assert repository.missing_parts(stored.name) == []
        Objects(url).delete(f"{stored.name}/{stored.parts[1].name}")
        assert repository.missing_parts(stored.name) == [stored.parts[1].name]

    def test_several_may_write_the_same_file(self, repository: Repository, url: str) -> None:
        objects, data = Objects(url), [bytes([it]) * 200_000 for it in range(8)]
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda it: objects.write("a/b", it), data))
        assert objects.read("a/b", 1 << 20) in data
        assert list(objects.sizes("a")) == ["b"]


class TestDamage:
    def test_each_part_has_a_checksum(
        self, repository: Repository, url: str, copy: tuple[Path, Manifest], tmp_path: Path
    ) -> None:
        stored = publish(repository, copy)
        path = f"{stored.name}/{stored.parts[1].name}"
        objects = Objects(url)
        good = objects.read(path, 1 << 20)
        for bad in (
            good[:-1],
            good[:40] + bytes([good[40] ^ 1]) + good[41:],
            b"",
            objects.read(f"{stored.name}/{stored.parts[0].name}", 1 << 20),
        ):
            objects.write(path, bad)
            with pytest.raises(SnapshotError, match=r"part-00001-.* does not match its checksum"):
                restore(repository, stored, tmp_path / "new", ignore)
            assert not (tmp_path / "new" / "data.mdb").exists()
            assert not (tmp_path / "new" / "data.mdb.new").exists()

    def test_a_part_that_expands_to_more_is_refused(
        self, repository: Repository, url: str, copy: tuple[Path, Manifest], tmp_path: Path
    ) -> None:
        stored = publish(repository, copy)
        huge = zstandard.ZstdCompressor().compress(bytes(PART_BYTES * 8))
        Objects(url).write(f"{stored.name}/{stored.parts[0].name}", huge)
        with pytest.raises(SnapshotError, match="does not match its checksum"):
            restore(repository, stored, tmp_path / "new", ignore)

    def test_one_that_is_deleted_while_it_is_restored(
        self, repository: Repository, copy: tuple[Path, Manifest], tmp_path: Path
    ) -> None:
        stored = publish(repository, copy)
        repository.delete(stored.name)
        with pytest.raises(SnapshotError, match="was deleted meanwhile: use a newer snapshot"):
            restore(repository, stored, tmp_path / "new", ignore)

    @pytest.mark.parametrize(
        ("change", "problem"),
        [
            (
                {"format": 99, "written_by": "9.1"},
                "has format 99, .* reads up to 1: install replicator 9.1 or a later version",
            ),
            (
                {"format": 99, "surprise": 1, "written_by": 5},
                "has format 99, .* reads up to 1: install a newer replicator",
            ),
            ({"name": "other"}, "is damaged"),
            ({"entries": "many"}, "is damaged"),
            ({"bytes": 5}, "is damaged"),
            ({"taken_at_ms": "yesterday"}, "is damaged"),
            ({"taken_at_ms": 10**20}, "is damaged"),
            ({"cluster": "c" * 100_000}, "is damaged"),
            ({"surprise": 1}, "is damaged"),
            ({"chain": "no digits"}, "is damaged"),
        ],
    )
    def test_a_manifest_that_is_not_ours(
        self, repository: Repository, url: str, copy: tuple[Path, Manifest], change: dict[str, object], problem: str
    ) -> None:
        stored = publish(repository, copy)
        fields = asdict(stored)
        fields["manifest"].update(change)
        Objects(url).write(f"{stored.name}/manifest.json", json.dumps(fields).encode())
        with pytest.raises(SnapshotError, match=problem):
            repository.get(stored.name)
        assert manifests(repository) == []
        problems: list[SnapshotError] = []
        assert listed(repository, on_problem=problems.append) == []
        assert re.search(problem, str(problems[0])) and len(problems) == 1

    @pytest.mark.parametrize("content", [b"", b"{}", b"[]", b"null", b"\xff", b"[" * 100_000, b'{"manifest": {}}'])
    def test_a_manifest_without_sense(
        self, repository: Repository, url: str, copy: tuple[Path, Manifest], content: bytes
    ) -> None:
        stored = publish(repository, copy)
        Objects(url).write(f"{stored.name}/manifest.json", content)
        with pytest.raises(SnapshotError, match="is damaged"):
            repository.get(stored.name)

    def test_one_without_parts(self, repository: Repository, url: str, copy: tuple[Path, Manifest]) -> None:
        stored = publish(repository, copy)
        fields = asdict(replace(stored, manifest=replace(stored.manifest, bytes=0), parts=()))
        Objects(url).write(f"{stored.name}/manifest.json", json.dumps(fields).encode())
        with pytest.raises(SnapshotError, match="is damaged"):
            repository.get(stored.name)

    def test_only_a_store_of_the_same_log_is_replaced(
        self, repository: Repository, copy: tuple[Path, Manifest], tmp_path: Path
    ) -> None:
        stored = publish(repository, copy)
        open_machine(tmp_path / "n1" / "store", "shop", "topic").close()
        restore_node(repository, stored, tmp_path / "n1", NO_PROGRESS)
        assert read_meta(tmp_path / "n1" / "store") is not None
        other = open_machine(tmp_path / "n2" / "store", "shop", "another topic")
        other.apply([write(b"a", None, b"s1")], state_at(7))
        other.close()
        with pytest.raises(SnapshotError, match="move that store away first"):
            restore_node(repository, stored, tmp_path / "n2", NO_PROGRESS)
        meta = read_meta(tmp_path / "n2" / "store")
        assert meta is not None and meta.state.offset == 7

    def test_one_whose_content_is_another(
        self, repository: Repository, url: str, copy: tuple[Path, Manifest], tmp_path: Path
    ) -> None:
        stored = publish(repository, copy)
        fields = asdict(replace(stored, manifest=replace(stored.manifest, digest="0" * 32)))
        Objects(url).write(f"{stored.name}/manifest.json", json.dumps(fields).encode())
        with pytest.raises(SnapshotError, match="and its manifest has 0000"):
            restore_node(repository, repository.get(stored.name), tmp_path / "n1", NO_PROGRESS)
        assert not (tmp_path / "n1" / "store" / "data.mdb").exists()

    def test_a_node_that_runs_keeps_its_store(
        self, repository: Repository, copy: tuple[Path, Manifest], tmp_path: Path
    ) -> None:
        """Also while it heals, or waits for Kafka: its store is not open then."""
        stored = publish(repository, copy)
        (tmp_path / "n1").mkdir()
        lock = boot.lock(tmp_path / "n1")
        with pytest.raises(StoreError, match="in use by another process"):
            restore_node(repository, stored, tmp_path / "n1", NO_PROGRESS)
        os.close(lock)
        damaged = tmp_path / "n1" / "store" / environment.DAMAGED
        damaged.parent.mkdir()
        damaged.write_text("{}")
        restore_node(repository, stored, tmp_path / "n1", NO_PROGRESS)
        assert not damaged.exists()

    def test_a_huge_manifest_is_not_read_as_a_whole(
        self, repository: Repository, url: str, copy: tuple[Path, Manifest]
    ) -> None:
        stored = publish(repository, copy)
        Objects(url).write(f"{stored.name}/manifest.json", b" " * (8 << 20))
        assert len(Objects(url).read(f"{stored.name}/manifest.json", 1 << 20)) == 1 << 20
        with pytest.raises(SnapshotError, match="is damaged"):
            repository.get(stored.name)

    def test_the_names_of_parts_lead_nowhere_else(
        self, repository: Repository, url: str, copy: tuple[Path, Manifest]
    ) -> None:
        stored = publish(repository, copy)
        for name in ("../../etc/passwd", "/etc/passwd", "part-00000.zst"):
            parts = (replace(stored.parts[0], name=name), *stored.parts[1:])
            fields = asdict(replace(stored, parts=parts))
            Objects(url).write(f"{stored.name}/manifest.json", json.dumps(fields).encode())
            with pytest.raises(SnapshotError, match="is damaged"):
                repository.get(stored.name)

    @pytest.mark.parametrize("name", ["", ".", "..", "../x", "/etc", "a/b", "latest", f"{1:020d}-{'a' * 8}/..", "x\0"])
    def test_what_is_no_name_is_refused(self, repository: Repository, name: str) -> None:
        for call in (repository.get, repository.delete, repository.verification):
            with pytest.raises(SnapshotError, match="invalid name of a snapshot"):
                call(name)

    def test_other_files_are_left_alone(self, repository: Repository, url: str, copy: tuple[Path, Manifest]) -> None:
        Objects(url).write("readme.txt", b"x")
        Objects(url).write("other/manifest.json", b"{}")
        assert manifests(repository) == []
        assert repository.delete_unfinished(-60) == []


class TestFallback:
    """The newest snapshot is damaged, and an older one is not."""

    @pytest.fixture
    def names(self, repository: Repository, url: str, machine: Machine, tmp_path: Path) -> list[str]:
        """The newest first. The newest verified one is damaged."""
        names: list[str] = []
        for offset in (51, 52, 53):
            machine.apply([write(b"row%d" % offset, None, b"s1")], state_at(offset))
            taken = snapshot.take(machine.copy_to, tmp_path / "copies")
            stored = repository.publish(tmp_path / "copies" / taken.name, taken, ignore)
            names.insert(0, stored.name)
        for name in names[1:]:
            repository.note_verification(name, Verification(1, "n1"))
        damage(url, repository.get(names[1]))
        return names

    def test_the_next_one_is_restored(self, repository: Repository, names: list[str], tmp_path: Path) -> None:
        skipped: list[str] = []
        choice = best(repository, "shop")
        stored = restoring.restore(repository, choice, tmp_path / "new", on_skipped=skipped.append)
        assert stored.name == names[2]  # the older verified one, before the newest one
        [why] = skipped
        assert why.startswith(f"snapshot {names[1]} cannot be restored: part-00000-")
        assert "does not match its checksum" in why
        meta = read_meta(tmp_path / "new")
        assert meta is not None and meta.state.offset == 51

    def test_the_error_names_those_that_were_tried(
        self, repository: Repository, url: str, names: list[str], tmp_path: Path
    ) -> None:
        damage(url, repository.get(names[2]))
        repository.note_verification(names[0], FailedVerification(1, "n1", "digest: …"))
        choice = best(repository, "shop")
        tried = rf"snapshot {names[1]} cannot be restored: .*; snapshot {names[2]} cannot be restored: "
        with pytest.raises(SnapshotError, match=tried):
            restoring.restore(repository, choice, tmp_path / "new")
        with pytest.raises(SnapshotError, match=rf"^snapshot {names[1]} cannot be restored: [^;]*$"):
            restoring.restore(repository, restoring.only(repository.get(names[1])), tmp_path / "new")
        assert not (tmp_path / "new" / "data.mdb").exists()

    def test_a_new_replica(self, repository: Repository, names: list[str]) -> None:
        for skipped, verified, expected in (
            ((), True, 1),
            ((), False, 0),
            (names[1:2], True, 2),
            (names[:2], False, 2),
        ):
            choice = newest_of_log(repository, "shop", "topic", verified=verified)
            assert choice(skipped).name == names[expected]
        repository.note_verification(names[0], FailedVerification(1, "n1", "digest: …"))
        assert newest_of_log(repository, "shop", "topic", verified=False)(()).name == names[1]
        for topic_id, skipped in (("topic", names), ("another", [])):
            with pytest.raises(SnapshotError, match=r"no snapshot whose verification has not failed \(.*digest"):
                newest_of_log(repository, "shop", topic_id, verified=True)(skipped)

    def test_one_whose_verification_failed_is_only_shown(self, repository: Repository, names: list[str]) -> None:
        repository.note_verification(names[0], FailedVerification(1, "n1", "digest: …"))
        assert newest(repository, "shop").name == names[0]
        assert newest_before(repository, "shop", None).name == names[1]
        assert newest_before(repository, "shop", None, names[:2]).name == names[2]

    def test_a_node_of_a_restored_cluster(
        self, repository: Repository, url: str, names: list[str], tmp_path: Path
    ) -> None:
        folder = ClusterFolder(tmp_path / "cluster")
        cluster = ClusterFile("shop", "", True, 7001, snapshots=url, former=("old",))
        prepare_store(folder, cluster, "n1", NO_PROGRESS)
        meta = read_meta(folder.node_dir("n1") / "store")
        assert meta is not None and meta.state.offset == 51
        for name in (names[0], names[2]):
            damage(url, repository.get(name))
        with pytest.raises(
            SnapshotError, match=r"n2 cannot start from .* was restored: snapshot .*; snapshot .*; snap"
        ):
            prepare_store(folder, cluster, "n2", NO_PROGRESS)

    def test_one_is_deleted_by_name(self, repository: Repository, url: str, names: list[str]) -> None:
        delete(repository, names[1], force=False)
        with pytest.raises(SnapshotError, match="the only verified snapshot of this log of cluster shop"):
            delete(repository, names[2], force=False)
        with pytest.raises(SnapshotError, match="there is no snapshot"):
            delete(repository, names[1], force=True)
        delete(repository, names[2], force=True)
        Objects(url).write(f"{names[0]}/manifest.json", b"damaged")
        delete(repository, names[0], force=False)
        assert repository.names() == []


def damage(url: str, stored: StoredSnapshot) -> None:
    path = f"{stored.name}/{stored.parts[0].name}"
    data = Objects(url).read(path, 1 << 20)
    Objects(url).write(path, data[: len(data) // 2] + data[len(data) // 2 + 1 :])


class TestVerification:
    @pytest.fixture
    def verified(self, url: str, copy: tuple[Path, Manifest], monkeypatch: pytest.MonkeyPatch) -> StoredSnapshot:
        async def compare(*args: object) -> str:
            return "the log holds it"

        monkeypatch.setattr(verification, "_compare", compare)
        stored = publish(Repository(url), copy)
        assert self.verify(url, stored, copy[0].parent / "0")[-1].passed
        assert Repository(url).is_verified(stored.name)
        return stored

    def verify(self, url: str, stored: StoredSnapshot, folder: Path, cluster: str = "shop") -> list[Check]:
        folder.mkdir(exist_ok=True)
        kafka = LogAccess("127.0.0.1:1", cluster, PLAINTEXT)
        return list(verify_and_note(Repository(url), stored, kafka, "n1", folder, lambda what, done, total: None))

    def test_one_that_fails_withdraws_the_former_one(self, url: str, verified: StoredSnapshot, tmp_path: Path) -> None:
        path = f"{verified.name}/{verified.parts[1].name}"
        good = Objects(url).read(path, 1 << 20)
        Objects(url).write(path, good[: len(good) // 2])
        assert [it.passed for it in self.verify(url, verified, tmp_path / "1")] == [True, False]
        found = Repository(url).verification(verified.name)
        assert isinstance(found, FailedVerification)
        assert found.failure.startswith(f"checksums: {verified.parts[1].name} does not match its checksum")
        Objects(url).write(path, good)
        assert self.verify(url, verified, tmp_path / "2")[-1].passed
        assert Repository(url).is_verified(verified.name)

    @pytest.mark.parametrize("problem", ["folder", "space", "kafka", "cluster", "topic"])
    def test_one_that_cannot_be_made_withdraws_nothing(
        self, url: str, verified: StoredSnapshot, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, problem: str
    ) -> None:
        expected: dict[str, tuple[type[Exception], str]] = {
            "folder": (FolderUnusable, "choose another folder"),
            "space": (StoreFull, "are free"),
            "kafka": (BrokerUnavailable, "no answer"),
        }
        cluster = "another" if problem == "cluster" else "shop"

        async def compare(kafka: LogAccess, topic_id: str, state: LogState) -> str:
            if problem == "kafka":
                raise BrokerUnavailable("no answer")
            return await verification.compare_with_log(MemoryLog(), topic_id, state)

        def refuse(descriptor: int, data: bytes, offset: int) -> int:
            raise OSError(13, "Permission denied")

        monkeypatch.setattr(verification, "_compare", compare)
        if problem == "folder":
            monkeypatch.setattr(os, "pwrite", refuse)
        if problem == "space":
            usage = shutil.disk_usage(tmp_path)
            monkeypatch.setattr("shutil.disk_usage", lambda path: usage._replace(free=1))
        if problem in expected:
            kind, text = expected[problem]
            with pytest.raises(kind, match=text):
                self.verify(url, verified, tmp_path / "1", cluster)
        else:
            assert not self.verify(url, verified, tmp_path / "1", cluster)[-1].passed
        assert Repository(url).is_verified(verified.name)

    def test_one_that_is_deleted_meanwhile_leaves_nothing(
        self, url: str, verified: StoredSnapshot, tmp_path: Path
    ) -> None:
        Repository(url).delete(verified.name)
        assert not self.verify(url, verified, tmp_path / "1")[-1].passed
        assert Repository(url).names() == []


class TestTrouble:
    def test_a_repository_that_does_not_exist_is_empty(self, repository: Repository) -> None:
        assert manifests(repository) == []

    def test_a_url_of_an_unknown_kind(self) -> None:
        with pytest.raises(ConfigError, match="invalid repository nowhere://x"):
            Repository("nowhere://x")

    @pytest.mark.parametrize("url", ["", " ", "s3:/foo", "s3:foo", "s3://", "s3:///x", "ftp:/h/x"])
    def test_a_url_that_names_another_place_than_is_meant(self, url: str) -> None:
        with pytest.raises(ConfigError, match=r"invalid repository .*: expected "):
            Repository(url)

    def test_a_host_that_cannot_be_looked_up(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def fail(*args: object, **options: object) -> None:
            raise socket.gaierror(-2, "Name or service not known")

        monkeypatch.setattr("socket.create_connection", fail)
        with pytest.raises(RepositoryUnavailable, match=r"ftp://h/x cannot be opened now: .*Name or service not known"):
            Repository("ftp://ada:secret@h/x")

    def test_a_folder_that_does_not_exist(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match="does not exist: correct its name"):
            Repository(str(tmp_path / "missing")).check_exists()
        (tmp_path / "file").write_text("x")
        with pytest.raises(ConfigError, match="is not a folder"):
            Repository(str(tmp_path / "file")).check_exists()
        (tmp_path / "link").symlink_to(tmp_path, target_is_directory=True)
        Repository(str(tmp_path / "link")).check_exists()

    def test_commands_that_read_a_repository_that_does_not_exist(self, tmp_path: Path) -> None:
        cluster = ClusterFolder(tmp_path)
        missing = str(tmp_path / "missing")
        for configured, given, fails in (("", None, False), (missing, None, True), ("", missing, True)):
            cluster.save(ClusterFile("shop", "", True, 7001, snapshots=configured))
            if fails:
                with pytest.raises(ConfigError, match="does not exist"):
                    open_repository(tmp_path, given)
            else:
                assert listed(open_repository(tmp_path, given)) == []
        cluster.save(ClusterFile("shop", "", True, 7001, snapshots=missing))
        open_repository(tmp_path, None, needs_one=False)  # the log may be enough
        with pytest.raises(ConfigError, match="does not exist"):
            open_repository(tmp_path, missing, needs_one=False)

    def test_passwords_are_not_shown(self) -> None:
        assert shown_url("sftp://ada:secret@host/x") == "sftp://host/x"
        assert shown_url("/tmp/a@b") == "/tmp/a@b"

    def test_s3_that_is_away(self, bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
        monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
        with pytest.raises(RepositoryUnavailable, match=rf"repository {bucket}/x cannot list snapshots now"):
            listed(Repository(f"{bucket}/x"))

    def test_s3_without_credentials(self, bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            monkeypatch.delenv(name)
        monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        with pytest.raises(ConfigError, match="no valid credentials"):
            listed(Repository(f"{bucket}/x"))

    def test_a_bucket_that_does_not_exist(self, bucket: str, copy: tuple[Path, Manifest]) -> None:
        with pytest.raises(ConfigError, match=r"s3://missing/x does not exist .*create the bucket"):
            publish(Repository("s3://missing/x"), copy)
        with pytest.raises(ConfigError, match=r"s3://missing/x does not exist: .*create the bucket"):
            Repository("s3://missing/x").check_exists()
        Repository(f"{bucket}/{uuid.uuid4().hex}").check_exists()

    def test_a_full_disk_while_restoring(
        self, repository: Repository, copy: tuple[Path, Manifest], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        stored = publish(repository, copy)
        store = tmp_path / "new"
        restore(repository, stored, store, ignore)
        before = (store / "data.mdb").read_bytes()

        def full(descriptor: int, data: bytes, offset: int) -> int:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(os, "pwrite", full)
        with pytest.raises(StoreFull, match=r"No space left on device\. Free some space"):
            restore(repository, stored, store, ignore)
        assert (store / "data.mdb").read_bytes() == before
        assert not (store / "data.mdb.new").exists()

    def test_a_disk_without_space_for_it(
        self, repository: Repository, copy: tuple[Path, Manifest], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        stored = publish(repository, copy)
        usage = shutil.disk_usage(tmp_path)
        for free, fits in ((stored.bytes - 1, False), (stored.bytes, True)):
            monkeypatch.setattr("shutil.disk_usage", lambda path, free=free: usage._replace(free=free))
            if fits:
                restore(repository, stored, tmp_path / "new", ignore)
                continue
            with pytest.raises(StoreFull, match=f"needs {stored.bytes} bytes in .*, and {free} are free"):
                restore(repository, stored, tmp_path / "new", ignore)
            assert not (tmp_path / "new" / "data.mdb").exists()

    def test_a_full_repository(
        self, tmp_path: Path, copy: tuple[Path, Manifest], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def full(path: Path) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr("replicator.snapshots.objects.sync", full)
        with pytest.raises(SnapshotError, match="is full"):
            publish(Repository(str(tmp_path / "repository")), copy)

    def test_a_store_that_is_open_is_not_replaced(
        self, repository: Repository, copy: tuple[Path, Manifest], machine: Machine
    ) -> None:
        stored = publish(repository, copy)
        with pytest.raises(StoreError, match="in use by another process"):
            restore(repository, stored, machine.folder, ignore)
