"""The process of a job: `python -m replicator.snapshots.worker`.

It reads the job (`jobs.Job`) from the first line of stdin, writes its result or error to stdout (JSON), and ends when
stdin is closed, so it does not outlive its node. The store is open in the node meanwhile: LMDB lets processes share it.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import sys
import threading
import time
from dataclasses import asdict
from io import FileIO
from typing import Any

from replicator import errors, priority
from replicator.errors import ReplicatorError, SnapshotError
from replicator.log.kafka.log import KafkaLog
from replicator.node.snapshots import SnapshotProgress
from replicator.protocol.log_state import LogState
from replicator.snapshots.jobs import Job, JobSettings, Task, encode_progress
from replicator.snapshots.repository import Repository, Verification
from replicator.snapshots.verification import Check, compare_with_log, verify_snapshot
from replicator.store import environment, snapshot
from replicator.store.meta import FORMAT
from replicator.store.snapshot import Manifest

NICENESS = 19

logger = logging.getLogger(__name__)


def main() -> None:
    priority.lower(NICENESS)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    node = FileIO(sys.stdin.fileno(), closefd=False)
    job = Job.decode(node.readline())
    threading.Thread(target=_end_with, args=(node,), daemon=True).start()
    try:
        reply: dict[str, Any] = {"result": asdict(run(job))}
    except ReplicatorError as error:
        kind = next(it for it in type(error).__mro__ if it.__module__ == errors.__name__)
        reply = {"error": kind.__name__, "text": str(error)}
    print(json.dumps(reply))


def run(job: Job) -> Manifest | Check:
    """Raises `ReplicatorError`."""
    repository = Repository(job.settings.repository)
    snapshot.delete_unfinished(job.settings.copies)
    if job.task is Task.VERIFY:
        return verify(job.settings, repository, job.snapshot)
    settings = job.settings
    publish_copies(settings, repository)  # of uploads that were interrupted: there is never more than one copy
    manifest = snapshot.take(lambda folder: environment.copy(settings.store, folder), settings.copies)
    publish_copies(settings, repository)
    return manifest


def publish_copies(settings: JobSettings, repository: Repository) -> None:
    """What is not a copy of the log that the store follows is deleted."""
    if not settings.copies.exists():
        return
    with environment.shared(settings.store) as env:
        meta = environment.read_meta(env)
    for copy in sorted(settings.copies.iterdir()):
        try:
            manifest = snapshot.read_manifest(copy)
        except SnapshotError as error:
            logger.warning("%s", error)
        else:
            is_whole = (copy / "data.mdb").exists() and manifest.format == FORMAT
            if is_whole and meta is not None and manifest.topic_id == meta.topic_id:
                repository.publish(copy, manifest, Uploaded(manifest.bytes).add)
        snapshot.delete(copy)


class Uploaded:
    """Reports how much of a copy is uploaded."""

    def __init__(self, total: int) -> None:
        self._done, self._total = 0, total

    def add(self, size: int) -> None:
        self._done += size
        _report("uploading, MiB", self._done >> 20, self._total >> 20)


def _report(doing: str, done: int, total: int) -> None:
    os.write(sys.stdout.fileno(), encode_progress(SnapshotProgress(doing, done, total)))


def verify(settings: JobSettings, repository: Repository, name: str) -> Check:
    def compare(topic_id: str, state: LogState) -> str:
        return asyncio.run(_compare(settings, topic_id, state))

    last = Check("manifest", False, "nothing was checked")
    with snapshot.unfinished(settings.copies) as folder:
        for last in verify_snapshot(repository, repository.get(name), settings.cluster, compare, folder, _report):
            logger.info("snapshot %s: %s: %s", name, last.what, last.detail)
    if last.passed:
        repository.note_verified(name, Verification(time.time_ns() // 1_000_000, settings.node))
    return last


async def _compare(settings: JobSettings, topic_id: str, state: LogState) -> str:
    log = await KafkaLog.open(settings.bootstrap, settings.cluster, security=settings.security)
    try:
        return await compare_with_log(log, topic_id, state)
    finally:
        await log.close()


def _end_with(node: FileIO) -> None:
    """End this process once its node has ended."""
    node.read()
    os._exit(1)


if __name__ == "__main__":
    main()
