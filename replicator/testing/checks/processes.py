"""A process that has read that another one replaced it has stopped, from that record on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from replicator.testing.observer import Unstopped


def check(unstopped: Sequence[Unstopped]) -> Iterator[str]:
    for at_s, node in unstopped:
        yield f"at {at_s:.6f} s {node} goes on although another process has replaced it"
