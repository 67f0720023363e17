"""The process of a job: `python -m replicator.snapshots.worker`.

A child process (`replicator.child_process`) that does a `jobs.Job`, and writes its progress, and then the result or an
error, to stdout (JSON). The store is open in the node meanwhile: LMDB lets processes share it.
"""

from __future__ import annotations

import json
import logging
import os
import sys
from dataclasses import asdict
from typing import Any

from replicator import child_process, errors
from replicator.errors import ReplicatorError, SnapshotError
from replicator.logging_setup import set_up
from replicator.node.snapshots import SnapshotProgress
from replicator.snapshots.jobs import Job, JobSettings, Task, encode_progress
from replicator.snapshots.repository import Repository
from replicator.snapshots.transfer import OnTransferred, in_total
from replicator.snapshots.verification import Check, LogAccess, verify_and_note
from replicator.store import environment, snapshot
from replicator.store.meta import FORMAT
from replicator.store.snapshot import Manifest

NICENESS = 19

logger = logging.getLogger(__name__)


def main() -> None:
    job = Job.decode(child_process.begin(NICENESS))
    set_up(job.settings.logs, job.settings.cluster, job.settings.node)
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
                repository.publish(copy, manifest, _uploading(manifest.bytes))
        snapshot.delete(copy)


def _uploading(total: int) -> OnTransferred:
    return in_total(lambda done: _report("uploading, MiB", done >> 20, total >> 20))


def _report(doing: str, done: int, total: int) -> None:
    os.write(sys.stdout.fileno(), encode_progress(SnapshotProgress(doing, done, total)))


def verify(settings: JobSettings, repository: Repository, name: str) -> Check:
    kafka = LogAccess(settings.bootstrap, settings.cluster, settings.security)
    last = Check("manifest", False, "nothing was checked")
    with snapshot.unfinished(settings.copies) as folder:
        for last in verify_and_note(repository, repository.get(name), kafka, settings.node, folder, _report):
            logger.info("snapshot %s: %s: %s", name, last.what, last.detail)
    return last


if __name__ == "__main__":
    main()
