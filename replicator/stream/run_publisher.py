"""The process of a publisher: `python -m replicator.stream.run_publisher`.

A child process (`replicator.child_process`) that gets `PublisherSettings`, and writes reports to stdout (JSON).
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType

from replicator import child_process
from replicator.errors import ReplicatorError
from replicator.log.kafka.security import KafkaSecurity
from replicator.logging_setup import LogSettings, set_up
from replicator.node.change_stream import PublisherReport, PublisherState
from replicator.position import NodeId
from replicator.store.effects import Effects
from replicator.stream.command_changes import CommandChanges
from replicator.stream.kafka_access import KafkaAccess
from replicator.stream.publisher import Publisher

NICENESS = 15
"""Of the process: on a busy machine, the node comes first, and the change stream lags."""


@dataclass(frozen=True, slots=True)
class PublisherSettings:
    bootstrap: str
    cluster: str
    node: NodeId
    snapshots: Path
    store: Path
    security: KafkaSecurity
    logs: LogSettings

    def encode(self) -> bytes:
        return json.dumps(asdict(self), default=str).encode() + b"\n"

    @classmethod
    def decode(cls, line: bytes) -> PublisherSettings:
        fields = json.loads(line)
        return cls(
            security=KafkaSecurity(**fields.pop("security")),
            snapshots=Path(fields.pop("snapshots")),
            store=Path(fields.pop("store")),
            logs=LogSettings.of(fields.pop("logs")),
            **fields,
        )


def main() -> None:
    settings = PublisherSettings.decode(child_process.begin(NICENESS))
    set_up(settings.logs, settings.cluster, settings.node)
    os.set_blocking(sys.stdout.fileno(), False)
    signal.signal(signal.SIGTERM, _exit)
    kafka = KafkaAccess(settings.bootstrap, settings.cluster, settings.node, settings.security)
    try:
        changes_of_command = CommandChanges(Effects(settings.store))
        Publisher(kafka, settings.node, settings.snapshots, changes_of_command, _report).run()
    except ReplicatorError as error:
        _report(PublisherReport(PublisherState.FAILED, trouble=str(error)))
        os._exit(1)  # at once: what was begun is aborted by the next publisher


def _exit(number: int, frame: FrameType | None) -> None:
    """Leave the group of publishers, so that another takes over at once."""
    sys.exit(0)


def _report(report: PublisherReport) -> None:
    with contextlib.suppress(BlockingIOError):  # the node is paused, and the pipe is full
        os.write(sys.stdout.fileno(), report.encode())  # at once, or not at all: a report is shorter than PIPE_BUF


if __name__ == "__main__":
    main()
