"""Every node has accepted the same records and has the same digest as a replay of the log to its offset."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from replicator.position import BEFORE_LOG
from replicator.testing.checks.canonical import Canonical
from replicator.testing.observer import Sample


def check(samples: Sequence[Sample], canonical: Canonical) -> Iterator[str]:
    for sample in samples:
        if sample.state.offset == BEFORE_LOG:
            continue
        expected = canonical.states[sample.state.offset]
        where = f"{sample.node} at offset {sample.state.offset} ({sample.at_s:.6f} s)"
        if sample.state != expected.state:
            yield f"{where} accepted other records than the log contains: {sample.state} instead of {expected.state}"
        elif (sample.digest, sample.entries) != (expected.digest, expected.entries):
            yield (
                f"{where} has digest {sample.digest:032x} over {sample.entries} entries "
                f"instead of {expected.digest:032x} over {expected.entries}"
            )
