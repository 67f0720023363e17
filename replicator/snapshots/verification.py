"""Verifies a snapshot: restores it elsewhere, and compares it with its manifest and with the log.

Only a verified snapshot may replace a part of the log (`protocol.trimming`).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from replicator.errors import LogDamage, LogTrimmed, SnapshotError
from replicator.log.kafka.security import KafkaSecurity
from replicator.log.port import Log
from replicator.node.past import log_holds
from replicator.protocol.log_state import LogState
from replicator.snapshots.repository import (
    FailedVerification,
    FolderUnusable,
    Repository,
    StoredSnapshot,
    Verification,
)
from replicator.snapshots.transfer import in_total
from replicator.store.snapshot import Manifest, check_content, check_meta, meta_of

MAX_FAILURE_CHARS = 1000

OnProgress = Callable[[str, int, int], None]
"""Called with what is counted, how much of it is done, and how much there is."""


@dataclass(frozen=True, slots=True)
class Check:
    what: str
    passed: bool
    detail: str


class LogAccess(NamedTuple):
    bootstrap: str
    cluster: str
    security: KafkaSecurity


class OfAnotherLog(SnapshotError):
    """The snapshot cannot be compared with this log. This says nothing about the snapshot."""


def verify_and_note(
    repository: Repository,
    snapshot: StoredSnapshot,
    kafka: LogAccess,
    by: str,
    folder: Path,
    on_progress: OnProgress,
) -> Iterator[Check]:
    """The checks in order; it ends with the first one that fails. The copy is restored to `folder`, which is empty.

    The result is noted in the repository, instead of the former one. It blocks. Nothing is noted if a check cannot be
    made: raises `RepositoryUnavailable`, `ConfigError`, `BrokerUnavailable`, and `StoreFull` and
    `FolderUnusable` of the folder.
    """
    manifest = snapshot.manifest
    steps: tuple[tuple[str, Callable[[], str]], ...] = (
        ("manifest", lambda: _check_manifest(snapshot, kafka.cluster)),
        ("checksums", lambda: _fetch(repository, snapshot, folder / "data.mdb", on_progress)),
        ("metadata", lambda: _check_meta(folder, manifest)),
        ("digest", lambda: _check_content(folder, manifest, on_progress)),
        ("log", lambda: asyncio.run(_compare(kafka, manifest.topic_id, meta_of(folder).state))),
    )
    for what, step in steps:
        try:
            detail = step()
        except FolderUnusable:
            raise
        except OfAnotherLog as error:
            yield Check(what, False, str(error))
            return
        except (SnapshotError, LogDamage, LogTrimmed) as error:
            yield Check(what, False, str(error))
            _note_failed(repository, snapshot.name, by, f"{what}: {error}")
            return
        yield Check(what, True, detail)
    repository.note_verification(snapshot.name, Verification(_now_ms(), by))


def _note_failed(repository: Repository, name: str, by: str, failure: str) -> None:
    """Unless it was deleted meanwhile: then nothing of it must be left."""
    if name in repository.names():
        repository.note_verification(name, FailedVerification(_now_ms(), by, failure[:MAX_FAILURE_CHARS]))


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


async def _compare(kafka: LogAccess, topic_id: str, state: LogState) -> str:
    from replicator.log.kafka.log import KafkaLog  # most commands verify nothing, and do not need aiokafka

    log = await KafkaLog.open(kafka.bootstrap, kafka.cluster, security=kafka.security)
    try:
        return await compare_with_log(log, topic_id, state)
    finally:
        await log.close()


async def compare_with_log(log: Log, topic_id: str, state: LogState) -> str:
    """Whether a replica with this state can read on in the log. Raises `SnapshotError`, and as `log_holds`."""
    if log.identity != topic_id:
        raise OfAnotherLog(f"it is of the topic with id {topic_id}, and the log is now the one with id {log.identity}")
    start = await log.start()
    if start > state.offset + 1:
        raise SnapshotError(f"the log begins at offset {start}, so a replica cannot read on from {state.offset + 1}")
    is_held = await log_holds(log, state)
    if is_held is None:
        return f"the log begins at offset {start}: what the snapshot contains was deleted from it"
    if not is_held:
        raise SnapshotError(
            f"the log ends at offset {await log.end()}, or holds other records than the snapshot, which was taken at "
            f"offset {state.offset}: Kafka has lost them"
        )
    return f"the record at offset {state.leader_offset} and its chain are those of the snapshot"


def _check_manifest(snapshot: StoredSnapshot, cluster: str) -> str:
    manifest = snapshot.manifest
    if manifest.cluster != cluster:
        raise OfAnotherLog(f"it is of cluster {manifest.cluster}, not {cluster}")
    return f"format {manifest.format}, offset {manifest.offset}, {len(snapshot.parts)} parts"


def _fetch(repository: Repository, snapshot: StoredSnapshot, file: Path, on_progress: OnProgress) -> str:
    total = snapshot.bytes
    repository.fetch(snapshot, file, in_total(lambda done: on_progress("bytes", done, total)))
    return f"{total} bytes in {len(snapshot.parts)} parts"


def _check_meta(folder: Path, manifest: Manifest) -> str:
    check_meta(meta_of(folder), manifest)
    return f"seq {manifest.seq}, epoch {manifest.epoch}, timeline {manifest.timeline[:8]}"


def _check_content(folder: Path, manifest: Manifest, on_progress: OnProgress) -> str:
    check_content(folder, lambda count: on_progress("entries", count, manifest.entries))
    return f"{manifest.entries} entries, digest {manifest.digest[:12]}"
