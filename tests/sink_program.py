"""Runs a sink on the changes of a random history, until all are written. The tests kill it.

python -m tests.sink_program DIR TARGET SEED TRANSACTIONS

It prints the number of changes written after each batch.
"""

from __future__ import annotations

import sys
from pathlib import Path

from replicator.local.sinks import RunOptions, SinkFolder, run_sink_on
from replicator.stream.sinks.report import SinkReport
from replicator.stream.sinks.runner import BatchLimits, ProcessControl
from replicator.stream.sinks.settings import FileLimits, SinkSettings, Target, TargetOptions
from tests.sink_fixture import FakeStream, random_history


def main(dir: str, target: str, seed: str, transactions: str) -> None:
    stream = FakeStream(random_history(int(seed), int(transactions)).changes)
    control = ProcessControl(lambda: False)

    def show(report: SinkReport) -> None:
        print(report.written, flush=True)
        control.stop_requested |= report.batches > 0 and report.lag_messages == 0

    options = RunOptions(BatchLimits(changes=7, wait_s=0), TargetOptions(files=FileLimits(bytes=30_000)))
    settings = SinkSettings("killed", "shop", Target.parse(target))
    run_sink_on(SinkFolder(Path(dir)), settings, stream.open, options, show, control)


if __name__ == "__main__":
    main(*sys.argv[1:])
