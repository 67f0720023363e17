"""What a node does with its snapshots: on a folder as the repository, with copies made in this process."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

from replicator import errors
from replicator.errors import BrokerUnavailable, ConfigError, RepositoryUnavailable, SnapshotError, StoreFull
from replicator.log.kafka.security import PLAINTEXT
from replicator.log.memory import MemoryLog
from replicator.log.port import LogExtent
from replicator.logging_setup import LogFormat, LogLevel, LogSettings
from replicator.node.snapshots import SnapshotProgress
from replicator.position import Offset
from replicator.protocol.log_state import LogState
from replicator.protocol.trimming import Need
from replicator.snapshots.jobs import Job, JobSettings, ProcessJobs, Task, encode_progress
from replicator.snapshots.listing import listed
from replicator.snapshots.repository import FailedVerification, Repository, Verification
from replicator.snapshots.retention import Schedule
from replicator.snapshots.service import SnapshotService, SnapshotSettings
from replicator.snapshots.verification import Check
from replicator.store import snapshot
from replicator.store.machine import Machine, open_machine
from replicator.store.snapshot import Manifest
from tests.memory_cluster import until
from tests.test_store import state_at, write

EVERY_TEN = Schedule(records=10, bytes=0, seconds=0)
BYTES = 1_000  # of an entry of the log


class KnownLog(MemoryLog):
    """Its extent is that of the test."""

    first = Offset(0)
    end_offset = 0
    size_known = True

    async def extent(self) -> LogExtent:
        size = (self.end_offset - self.first) * BYTES
        return LogExtent(self.first, size if self.size_known else None)


class OwnJobs:
    """`Jobs` in this process. `check`: what a verification finds."""

    def __init__(self, machine: Machine, folder: Path, repository: Repository) -> None:
        self.check = Check("log", True, "all is well")
        self.verified: list[str] = []
        self.failure: Exception | None = None
        self.progress: SnapshotProgress | None = None
        self._machine = machine
        self._folder = folder
        self._repository = repository

    async def take(self) -> Manifest:
        if self.failure is not None:
            raise self.failure
        manifest = snapshot.take(self._machine.copy_to, self._folder)
        self._repository.publish(self._folder / manifest.name, manifest, lambda size: None)
        return manifest

    async def verify(self, name: str) -> Check:
        self.verified.append(name)
        result = Verification(1, "n1") if self.check.passed else FailedVerification(1, "n1", self.check.detail)
        self._repository.note_verification(name, result)
        return self.check


class Subject:
    def __init__(self, folder: Path) -> None:
        self.machine = open_machine(folder / "store", "shop", "topic", map_bytes=64 << 10)
        self.log = KnownLog()
        self.log.identity = "topic"
        self.repository = Repository(str(folder / "snapshots"))
        self.jobs = OwnJobs(self.machine, folder / "copies", self.repository)
        self.is_snapshotter = True
        self.needs: list[Need] = []
        self.trimmed: list[int] = []
        self.compared: list[int] = []  # snapshots that were looked for in the log, by offset
        self.lost: set[int] = set()  # those that it does not hold

    def service(
        self, schedule: Schedule = EVERY_TEN, *, keep: int = 1, trims: bool = True, keep_log: int = 0
    ) -> SnapshotService:
        return SnapshotService(
            self.machine,
            self.log,
            self.repository,
            self.jobs,
            SnapshotSettings(schedule, keep, 0, trims, keep_log),
            is_snapshotter=lambda: self.is_snapshotter,
            needs=lambda: self.needs,
            trim=self._trim,
        )

    def apply_to(self, offset: int) -> None:
        key = b"k%d" % offset
        self.machine.apply([write(key, None, b"s1")], state_at(offset))
        self.log.end_offset = offset + 1

    def names(self) -> list[int]:
        """The offsets of the snapshots."""
        return [it.manifest.offset for it in listed(self.repository)]

    def _trim(self, offset: Offset) -> Offset:
        self.trimmed.append(offset)
        self.log.first = offset
        return offset


@pytest.fixture
def subject(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Subject]:
    subject = Subject(tmp_path)

    async def holds(log: MemoryLog, state: LogState) -> bool:
        subject.compared.append(state.offset)
        return state.offset not in subject.lost

    monkeypatch.setattr("replicator.snapshots.service.log_holds", holds)  # the log of these tests has no records
    yield subject
    subject.machine.close()


class TestSchedule:
    async def test_taken_verified_and_replaced(self, subject: Subject) -> None:
        service = subject.service()
        subject.apply_to(8)
        await service.look()
        assert subject.names() == []
        for offset in (9, 18, 19):
            subject.apply_to(offset)
            await service.look()
        assert subject.names() == [19]  # and not 18, which is 9 records after 9
        assert len(subject.jobs.verified) == 2
        [listed] = service.report.snapshots or ()
        assert (listed.manifest.offset, listed.verified_at_ms) == (19, 1)
        await service.look()
        assert len(subject.jobs.verified) == 2

    async def test_by_the_size_of_the_log(self, subject: Subject) -> None:
        service = subject.service(Schedule(records=0, bytes=5 * BYTES, seconds=0))
        subject.apply_to(3)
        await service.look()
        assert subject.names() == []
        subject.apply_to(4)
        await service.look()
        assert subject.names() == [4]

    async def test_other_nodes_take_none_by_themselves(self, subject: Subject) -> None:
        subject.is_snapshotter = False
        service = subject.service()
        subject.apply_to(99)
        await service.look()
        assert subject.names() == []
        assert (await service.take()).offset == 99
        assert [it.manifest.offset for it in service.report.snapshots or ()] == [99]
        assert service.report.needed_from is None

    async def test_one_that_another_snapshotter_has_taken_counts(self, subject: Subject) -> None:
        subject.apply_to(9)
        await subject.service().look()
        subject.apply_to(12)
        await subject.service().look()
        assert subject.names() == [9]

    async def test_one_of_another_log_does_not(self, subject: Subject) -> None:
        subject.apply_to(30)
        await subject.jobs.take()
        subject.log.identity = "another topic"
        service = subject.service(keep=1)
        await service.look()
        assert subject.names() == [30]
        assert subject.jobs.verified == []
        assert subject.trimmed == []

    async def test_an_empty_store(self, subject: Subject) -> None:
        service = subject.service()
        await service.look()
        assert (subject.names(), service.report.trouble) == ([], "")

    async def test_old_ones_are_deleted_even_if_none_can_be_taken(self, subject: Subject) -> None:
        service = subject.service(keep=2)
        for offset in (9, 19):
            subject.apply_to(offset)
            await service.look()
        await subject.jobs.take()
        subject.jobs.failure = SnapshotError("the repository is full")
        subject.apply_to(29)
        other = subject.service(keep=1)
        await other.look()
        assert subject.names() == [19]

    async def test_one_after_the_end_of_a_truncated_log_does_not_count(self, subject: Subject) -> None:
        subject.apply_to(99)
        await subject.jobs.take()
        subject.apply_to(20)
        await subject.service().look()
        assert subject.names() == [99, 20]
        assert subject.trimmed == [20]

    async def test_an_error_that_nobody_expects_does_not_end_the_node(
        self, subject: Subject, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fail(repository: Repository) -> list[str]:
            raise RuntimeError("a bug")

        monkeypatch.setattr(Repository, "names", fail)
        service = subject.service()
        await service.look()
        assert service.report.trouble == "RuntimeError('a bug')"


class TestTrimming:
    async def test_nothing_that_is_needed(self, subject: Subject) -> None:
        subject.apply_to(9)
        subject.needs = [Need("replica n2", Offset(7)), Need("the change stream", Offset(8))]
        service = subject.service()
        await service.look()
        assert subject.trimmed == [7]
        assert (service.report.needed_from, service.report.needed_by) == (7, "replica n2")
        subject.needs = []
        await service.look()
        assert subject.trimmed == [7, 9]
        assert service.report.needed_by.startswith("snapshot 0")
        await service.look()
        assert subject.trimmed == [7, 9]

    async def test_only_below_a_verified_snapshot(self, subject: Subject) -> None:
        subject.apply_to(9)
        subject.jobs.check = Check("digest", False, "the digest differs")
        service = subject.service()
        await service.look()
        assert (subject.names(), subject.trimmed) == ([9], [])
        [name] = subject.jobs.verified
        assert service.report.trouble == f"snapshot {name} is not verified (digest): the digest differs"
        await service.look()
        assert len(subject.jobs.verified) == 1  # not again and again
        subject.jobs.check = Check("log", True, "")
        subject.apply_to(19)
        await service.look()
        assert subject.names() == [19]
        assert (subject.trimmed, service.report.trouble) == ([19], "")

    async def test_every_kept_snapshot_needs_the_log(self, subject: Subject) -> None:
        service = subject.service(keep=2)
        for offset in (9, 19, 29):
            subject.apply_to(offset)
            await service.look()
        assert subject.names() == [29, 19]
        assert subject.trimmed[-1] == 19

    async def test_so_many_bytes_are_kept(self, subject: Subject) -> None:
        subject.apply_to(99)
        await subject.service(keep_log=30 * BYTES).look()
        assert subject.trimmed == [70]
        subject.log.size_known = False
        await subject.service(keep_log=30 * BYTES).look()
        assert subject.trimmed == [70]

    async def test_not_unless_it_may(self, subject: Subject) -> None:
        subject.apply_to(9)
        service = subject.service(trims=False)
        await service.look()
        assert (subject.names(), subject.trimmed, service.report.needed_from) == ([9], [], None)

    async def test_not_if_the_needs_are_unknown(self, subject: Subject) -> None:
        def unknown() -> Sequence[Need]:
            raise BrokerUnavailable("no answer")

        subject.apply_to(9)
        service = subject.service()
        service._needs = unknown
        await service.look()
        assert subject.trimmed == []
        assert service.report.trouble == "no answer"


@pytest.mark.parametrize("failure", [RepositoryUnavailable("away"), StoreFull("full"), SnapshotError("no")])
async def test_a_failure_is_reported_and_repeated(subject: Subject, failure: Exception) -> None:
    subject.apply_to(9)
    subject.jobs.failure = failure
    service = subject.service()
    assert not await service.look()
    assert service.report.trouble == str(failure)
    subject.jobs.failure = None
    assert await service.look()
    assert (subject.names(), service.report.trouble) == ([9], "")


async def test_failures_are_repeated_less_and_less_often(subject: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    looked_s: list[float] = []
    results = [False] * 8 + [True] * 2
    now_s = 0.0
    service = subject.service()

    async def look() -> bool:
        looked_s.append(now_s)
        if len(looked_s) == len(results):
            raise asyncio.CancelledError
        return results[len(looked_s) - 1]

    async def sleep(seconds: float) -> None:
        nonlocal now_s
        now_s += seconds

    monkeypatch.setattr(service, "look", look)
    monkeypatch.setattr("replicator.snapshots.service.asyncio.sleep", sleep)
    monkeypatch.setattr(asyncio.get_running_loop(), "time", lambda: now_s)
    with pytest.raises(asyncio.CancelledError):
        await service.run()
    pauses_s = [after - before for before, after in pairwise(looked_s)]
    assert pauses_s == [20, 40, 80, 160, 300, 300, 300, 300, 10]


class TestProcess:
    """The jobs of a node: processes of their own."""

    @pytest.fixture
    def settings(self, subject: Subject, tmp_path: Path) -> JobSettings:
        return JobSettings(
            subject.machine.folder,
            tmp_path / "copies",
            subject.repository.url,
            "n1",
            "shop",
            "127.0.0.1:1",
            PLAINTEXT,
            LogSettings(),
        )

    async def test_it_logs_as_its_node(
        self, subject: Subject, settings: JobSettings, capfd: pytest.CaptureFixture[str]
    ) -> None:
        settings = replace(settings, logs=LogSettings(LogLevel.WARNING, LogFormat.JSON))
        job = Job(Task.TAKE, settings)
        assert Job.decode(job.encode()) == job
        (settings.copies / "without-a-manifest").mkdir(parents=True)
        subject.apply_to(9)
        await ProcessJobs(settings).take()
        line = json.loads(capfd.readouterr().err)
        assert (line["cluster"], line["node"], line["level"]) == ("shop", "n1", "WARNING")

    async def test_the_store_may_be_open(self, subject: Subject, settings: JobSettings) -> None:
        subject.apply_to(9)
        manifest = await ProcessJobs(settings).take()
        assert (manifest.offset, subject.names()) == (9, [9])
        assert list(settings.copies.iterdir()) == []
        for offset in range(10, 200):
            subject.apply_to(offset)
        assert (await ProcessJobs(settings).take()).offset == 199

    async def test_a_copy_that_was_not_uploaded_is_uploaded_first(
        self, subject: Subject, settings: JobSettings
    ) -> None:
        subject.apply_to(5)
        snapshot.take(subject.machine.copy_to, settings.copies)
        subject.apply_to(9)
        await ProcessJobs(settings).take()
        assert subject.names() == [9, 5]

    async def test_what_a_killed_process_has_left_is_deleted(self, subject: Subject, settings: JobSettings) -> None:
        left = settings.copies / ".1.unfinished"
        left.mkdir(parents=True)
        (left / "data.mdb").write_bytes(b"half")
        subject.apply_to(9)
        await ProcessJobs(settings).take()
        assert list(settings.copies.iterdir()) == []

    @pytest.mark.parametrize("damage", ["no data", "half a manifest", "another log", "a file"])
    async def test_a_copy_that_cannot_be_uploaded_is_deleted(
        self, subject: Subject, settings: JobSettings, damage: str
    ) -> None:
        subject.apply_to(5)
        copy = settings.copies / snapshot.take(subject.machine.copy_to, settings.copies).name
        manifest = copy / "manifest.json"
        match damage:
            case "no data":
                (copy / "data.mdb").unlink()
            case "half a manifest":
                manifest.write_text(manifest.read_text()[:40])
            case "another log":
                manifest.write_text(manifest.read_text().replace('"topic"', '"another topic"'))
            case _:
                (settings.copies / "readme").write_text("x")
        subject.apply_to(9)
        await ProcessJobs(settings).take()
        assert subject.names() == ([9, 5] if damage == "a file" else [9])
        assert list(settings.copies.iterdir()) == []

    async def test_a_store_that_grows_meanwhile(self, subject: Subject, tmp_path: Path) -> None:
        """LMDB reports a map that another process has enlarged since this one has opened it."""
        subject.apply_to(1)
        code = f"""
import sys
from dataclasses import replace
from pathlib import Path
from replicator.store import environment
with environment.shared(Path({str(subject.machine.folder)!r})) as env:
    print(flush=True)
    sys.stdin.readline()
    env.copy({str(tmp_path)!r}, compact=True)
"""
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", code, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
        )
        assert process.stdin is not None and process.stdout is not None
        await process.stdout.readline()
        subject.machine.apply([write(b"row%d" % it, None, b"s" + bytes(1000)) for it in range(5000)], state_at(2))
        await process.communicate(b"\n")
        assert process.returncode == 0
        assert (tmp_path / "data.mdb").exists()

    async def test_a_line_that_is_too_long(self, settings: JobSettings) -> None:
        with pytest.raises(SnapshotError, match="ended with status"):
            await ProcessJobs(settings, [sys.executable, "-c", "print('x' * 200_000)"]).take()

    async def test_a_process_that_cannot_be_started(self, settings: JobSettings) -> None:
        with pytest.raises(SnapshotError, match="cannot be started"):
            await ProcessJobs(settings, ["/nowhere"]).take()

    async def test_an_error_keeps_its_kind(self, subject: Subject, settings: JobSettings) -> None:
        with pytest.raises(SnapshotError, match="still empty"):
            await ProcessJobs(settings).take()
        with pytest.raises(SnapshotError, match="there is no snapshot"):
            await ProcessJobs(settings).verify(f"{9:020d}-{'a' * 8}")

    async def test_the_repository_cannot_be_used(self, subject: Subject, settings: JobSettings) -> None:
        subject.apply_to(9)
        Path(settings.repository).write_text("a file")  # noqa: ASYNC240 (a test)
        with pytest.raises((RepositoryUnavailable, ConfigError, SnapshotError), match="repository"):
            await ProcessJobs(settings).take()

    @pytest.mark.parametrize(
        "code", ["raise SystemExit(3)", "print('nonsense')", "print('{}')", "print('{\"error\": 1}')"]
    )
    async def test_a_process_that_reports_nothing(self, settings: JobSettings, code: str) -> None:
        with pytest.raises(SnapshotError, match="the process to take a snapshot ended with status"):
            await ProcessJobs(settings, [sys.executable, "-c", code]).take()

    async def test_a_job_that_is_cancelled_is_killed(self, settings: JobSettings, tmp_path: Path) -> None:
        marker = tmp_path / "pid"
        code = (
            f"import os, sys; open({str(marker)!r}, 'w').write(str(os.getpid())); sys.stdout.flush(); sys.stdin.read()"
        )
        running = asyncio.create_task(ProcessJobs(settings, [sys.executable, "-c", code]).take())
        await until(lambda: marker.exists() and marker.read_text() != "")
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        await until(lambda: not Path(f"/proc/{marker.read_text()}").exists())

    async def test_its_progress_is_known(self, settings: JobSettings, tmp_path: Path) -> None:
        shown = SnapshotProgress("uploading, MiB", 3, 7)
        code = f"import sys; sys.stdout.buffer.write({encode_progress(shown)!r}); sys.stdout.flush(); sys.stdin.read()"
        jobs = ProcessJobs(settings, [sys.executable, "-c", code])
        running = asyncio.create_task(jobs.take())
        await until(lambda: jobs.progress == shown)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        assert jobs.progress is None

    def test_a_job_is_what_it_was_before(self, settings: JobSettings) -> None:
        job = Job(Task.VERIFY, settings, "a-snapshot")
        assert Job.decode(job.encode()) == job

    def test_every_kind_of_error_can_be_raised_again(self) -> None:
        for kind in (RepositoryUnavailable, ConfigError, SnapshotError, StoreFull, BrokerUnavailable):
            assert getattr(errors, kind.__name__) is kind


class TestLostVerification:
    """A snapshot that was verified, and is damaged since."""

    async def test_one_whose_verification_fails_later_counts_no_more(self, subject: Subject) -> None:
        service = subject.service(keep=2)
        for offset in (9, 19):
            subject.apply_to(offset)
            await service.look()
        name = listed(subject.repository)[0].manifest.name
        subject.repository.note_verification(name, FailedVerification(2, "ada@host", "checksums: damaged"))
        subject.jobs.check = Check("checksums", False, "damaged")
        subject.trimmed.clear()
        await subject.service(keep=1).look()
        await service.look()
        assert subject.names() == [19, 9]
        assert subject.trimmed == []
        damaged, good = service.report.snapshots or ()
        assert (damaged.verified_at_ms, damaged.failure, good.verified_at_ms) == (None, "damaged", 1)
        subject.apply_to(29)
        subject.jobs.check = Check("log", True, "")
        await service.look()
        assert (subject.names(), service.report.trouble) == ([29, 9], "")
        assert subject.trimmed == []

    async def test_a_verification_that_fails_while_the_needs_are_asked_for(self, subject: Subject) -> None:
        def needs() -> Sequence[Need]:
            [snapshot] = listed(subject.repository)
            subject.repository.note_verification(
                snapshot.manifest.name, FailedVerification(2, "ada@host", "digest: differs")
            )
            return []

        subject.apply_to(9)
        service = subject.service()
        service._needs = needs
        await service.look()
        assert subject.trimmed == []

    @pytest.mark.parametrize("damage", ["gone", "shorter"])
    async def test_its_parts_are_looked_at_before_something_is_deleted(self, subject: Subject, damage: str) -> None:
        subject.needs = [Need("replica n2", Offset(0))]
        service = subject.service(keep=2)
        for offset in (9, 19):
            subject.apply_to(offset)
            await service.look()
        stored = subject.repository.get(listed(subject.repository)[0].manifest.name)
        part = Path(subject.repository.url) / stored.name / stored.parts[0].name
        if damage == "gone":
            part.unlink()
        else:
            part.write_bytes(part.read_bytes()[:-1])
        subject.needs.clear()
        other = subject.service(keep=1)
        await other.look()
        assert subject.names() == [19, 9]
        assert subject.trimmed == [9]  # the damaged one counts for nothing, and the good one needs the log from there
        assert f"snapshot {stored.name} has lost parts" in other.report.trouble


class TestLostPast:
    """The log was truncated, and has grown again: there are other records at the same offsets."""

    async def test_a_snapshot_of_it_is_refused(self, subject: Subject) -> None:
        service = subject.service(keep=2)
        for offset in (9, 19):
            subject.apply_to(offset)
            await service.look()
        subject.lost.add(19)
        subject.trimmed.clear()
        subject.apply_to(29)
        await service.look()
        assert subject.names() == [29, 19, 9]  # the good ones are kept
        assert subject.trimmed == []  # the oldest of them needs the log
        assert "contains other records than the log" in service.report.trouble
        subject.lost.clear()  # the end of the log was shown late
        await service.look()
        assert (subject.names(), service.report.trouble) == ([29, 19], "")

    async def test_it_does_not_replace_a_part_of_the_log(self, subject: Subject) -> None:
        subject.needs = [Need("replica n2", Offset(0))]
        service = subject.service()
        subject.apply_to(9)
        await service.look()
        subject.needs.clear()
        subject.lost.add(9)
        await service.look()
        assert subject.trimmed == []

    async def test_it_is_looked_for_only_before_something_is_deleted(self, subject: Subject) -> None:
        service = subject.service()
        subject.apply_to(9)
        await service.look()
        assert (subject.compared, subject.trimmed) == ([9], [9])
        await service.look()
        assert subject.compared == [9]
        subject.apply_to(19)
        await service.look()
        assert subject.names() == [19]
        assert subject.compared == [9, 19, 9, 19]  # to delete the snapshot, then to trim the log
