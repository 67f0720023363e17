"""Every node has accepted the same records and has the same digest as a replay of the log to its offset."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from replicator.position import BEFORE_LOG
from replicator.testing.checks.canonical import Canonical
from replicator.testing.observer import Sample


def check(samples: Sequence[Sample], canonicals: Sequence[Canonical]) -> Iterator[str]:
    """`canonicals`: of the logs that the nodes may have read."""
    for sample in samples:
        if sample.state.offset == BEFORE_LOG:
            continue
        known = [it.states[sample.state.offset] for it in canonicals if sample.state.offset in it.states]
        where = f"{sample.node} at offset {sample.state.offset} ({sample.at_s:.6f} s)"
        expected = next((it for it in known if it.state == sample.state), None)
        if expected is None:
            states = " or ".join(str(it.state) for it in known)
            yield f"{where} accepted other records than the log contains: {sample.state} instead of {states}"
        elif (sample.digest, sample.entries) != (expected.digest, expected.entries):
            yield (
                f"{where} has digest {sample.digest:032x} over {sample.entries} entries "
                f"instead of {expected.digest:032x} over {expected.entries}"
            )
