"""At most one node holds a lease at any point in true time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from replicator.testing.observer import Overlap


def check(overlaps: Sequence[Overlap]) -> Iterator[str]:
    for at_s, node, other in overlaps:
        yield f"at {at_s:.6f} s both {node} and {other} hold a lease"
