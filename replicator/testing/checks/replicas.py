"""Equal digests at equal offsets, and the same records accepted: every node stands where the log alone leads."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from replicator.position import BEFORE_LOG
from replicator.testing.checks.canonical import Canonical
from replicator.testing.observer import Sample


def check(samples: Sequence[Sample], canonical: Canonical) -> Iterator[str]:
    for sample in samples:
        if sample.state.offset == BEFORE_LOG:
            continue
        stand = canonical.stands[sample.state.offset]
        where = f"{sample.node} at offset {sample.state.offset} ({sample.at_s:.6f} s)"
        if sample.state != stand.state:
            yield f"{where} accepted other records than the log holds: {sample.state} instead of {stand.state}"
        elif (sample.digest, sample.entries) != (stand.digest, stand.entries):
            yield (
                f"{where} has digest {sample.digest:032x} over {sample.entries} entries "
                f"instead of {stand.digest:032x} over {stand.entries}"
            )
