"""What takes long: taking a snapshot and verifying one. Each runs in a process of its own, at a low priority."""

from __future__ import annotations

import asyncio
import json
import sys
from asyncio.subprocess import PIPE
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Protocol

from replicator import errors
from replicator.errors import ReplicatorError, SnapshotError
from replicator.log.kafka.security import KafkaSecurity
from replicator.logging_setup import LogSettings
from replicator.node.snapshots import SnapshotProgress
from replicator.snapshots.verification import Check
from replicator.store.snapshot import Manifest

WORKER = (sys.executable, "-m", "replicator.snapshots.worker")


class Jobs(Protocol):
    """Both raise `RepositoryUnavailable`, `ConfigError`, `SnapshotError`, `StoreFull`."""

    @property
    def progress(self) -> SnapshotProgress | None:
        """None: nothing is done now."""
        ...

    async def take(self) -> Manifest:
        """Copy the store, and upload the copy."""
        ...

    async def verify(self, name: str) -> Check:
        """The last check of a snapshot: if it has passed, all have. Also raises `BrokerUnavailable`."""
        ...


class Task(StrEnum):
    TAKE = "take"
    VERIFY = "verify"


@dataclass(frozen=True, slots=True)
class JobSettings:
    store: Path  # the folder of the open store
    copies: Path  # a folder for copies that are not uploaded yet
    repository: str
    node: str
    cluster: str
    bootstrap: str
    security: KafkaSecurity
    logs: LogSettings


@dataclass(frozen=True, slots=True)
class Job:
    task: Task
    settings: JobSettings
    snapshot: str = ""  # to be verified

    def encode(self) -> bytes:
        return json.dumps(asdict(self), default=str).encode() + b"\n"

    @classmethod
    def decode(cls, line: bytes) -> Job:
        fields = json.loads(line)
        settings = fields["settings"]
        security = KafkaSecurity(**settings.pop("security"))
        store, copies, logs = Path(settings.pop("store")), Path(settings.pop("copies")), settings.pop("logs")
        job = JobSettings(store, copies, security=security, logs=LogSettings.of(logs), **settings)
        return cls(Task(fields["task"]), job, fields["snapshot"])


class ProcessJobs:
    """Implements `Jobs`. One job at a time."""

    def __init__(self, settings: JobSettings, command: Sequence[str] = WORKER) -> None:
        self._settings = settings
        self._command = command
        self._running = asyncio.Lock()
        self.progress: SnapshotProgress | None = None

    async def take(self) -> Manifest:
        return Manifest(**await self._run(Job(Task.TAKE, self._settings)))

    async def verify(self, name: str) -> Check:
        return Check(**await self._run(Job(Task.VERIFY, self._settings, name)))

    async def _run(self, job: Job) -> dict[str, Any]:
        """Its result. If this is cancelled, the process is killed."""
        async with self._running:
            try:
                process = await asyncio.create_subprocess_exec(
                    *self._command, stdin=PIPE, stdout=PIPE, start_new_session=True
                )
            except OSError as error:
                raise SnapshotError(f"the process to {job.task} a snapshot cannot be started: {error}") from error
            assert process.stdin is not None and process.stdout is not None
            try:
                self.progress = SnapshotProgress(job.task)
                process.stdin.write(job.encode())  # and leave it open: the process ends when this one does
                reply = b""
                try:
                    async for line in process.stdout:
                        reply = line
                        self.progress = progress_of(line) or self.progress
                except ValueError:  # a line that is longer than what this process writes
                    process.kill()
                status = await process.wait()
            finally:
                self.progress = None
                if process.returncode is None:
                    process.kill()
                    await process.wait()
                process.stdin.close()
        return result_of(job.task, reply, status)


def encode_progress(progress: SnapshotProgress) -> bytes:
    """A line, as the process writes it."""
    return json.dumps({"progress": asdict(progress)}).encode() + b"\n"


def progress_of(line: bytes) -> SnapshotProgress | None:
    """None if the line says something else."""
    try:
        return SnapshotProgress(**json.loads(line)["progress"])
    except (ValueError, TypeError, KeyError):
        return None


def result_of(task: Task, reply: bytes, status: int) -> dict[str, Any]:
    """Raises what the process reports, and `SnapshotError` if it reports nothing."""
    try:
        fields = json.loads(reply)
        if "error" not in fields:
            return dict(fields["result"])
        kind, text = getattr(errors, fields["error"]), str(fields["text"])
    except (ValueError, TypeError, KeyError, AttributeError):
        raise SnapshotError(f"the process to {task} a snapshot ended with status {status}: see the log") from None
    error: ReplicatorError = kind(text)
    raise error
