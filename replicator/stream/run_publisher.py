"""The process of a publisher: `python -m replicator.stream.run_publisher`.

It reads its settings (`PublisherSettings`, JSON) from the first line of stdin, writes reports to stdout, and ends when
stdin is closed, so it does not outlive its node.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import sys
import threading
from dataclasses import asdict, dataclass
from io import FileIO
from pathlib import Path
from types import FrameType

from replicator import priority
from replicator.errors import ReplicatorError
from replicator.log.kafka.security import KafkaSecurity
from replicator.node.change_stream import PublisherReport, PublisherState
from replicator.position import NodeId
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
    security: KafkaSecurity

    def encode(self) -> bytes:
        return json.dumps(asdict(self), default=str).encode() + b"\n"

    @classmethod
    def decode(cls, line: bytes) -> PublisherSettings:
        fields = json.loads(line)
        return cls(security=KafkaSecurity(**fields.pop("security")), snapshots=Path(fields.pop("snapshots")), **fields)


def main() -> None:
    priority.lower(NICENESS)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    node = FileIO(sys.stdin.fileno(), closefd=False)  # the buffer of stdin would be locked when Python ends
    settings = PublisherSettings.decode(node.readline())
    os.set_blocking(sys.stdout.fileno(), False)
    signal.signal(signal.SIGTERM, _exit)
    threading.Thread(target=_end_with, args=(node,), daemon=True).start()
    kafka = KafkaAccess(settings.bootstrap, settings.cluster, settings.node, settings.security)
    try:
        Publisher(kafka, settings.node, settings.snapshots, _report).run()
    except ReplicatorError as error:
        _report(PublisherReport(PublisherState.FAILED, trouble=str(error)))
        os._exit(1)  # at once: what was begun is aborted by the next publisher


def _exit(number: int, frame: FrameType | None) -> None:
    """Leave the group of publishers, so that another takes over at once."""
    sys.exit(0)


def _report(report: PublisherReport) -> None:
    with contextlib.suppress(BlockingIOError):  # the node is paused, and the pipe is full
        os.write(sys.stdout.fileno(), report.encode())  # at once, or not at all: a report is shorter than PIPE_BUF


def _end_with(node: FileIO) -> None:
    """End this process once its node has ended."""
    node.read()
    os._exit(0)


if __name__ == "__main__":
    main()
