"""A leader applies a write last: once the stores of the replicas that the policy requires have applied it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from replicator.position import Author, Offset


class Unacknowledged(NamedTuple):
    """A leader has applied a write, but these replicas have not, although the policy requires their acks."""

    at_s: float
    leader: str
    offset: Offset
    missing: tuple[Author, ...]


def check(found: Iterable[Unacknowledged]) -> Iterator[str]:
    for it in found:
        missing = ", ".join(map(str, it.missing))
        yield f"at {it.at_s:f} s {it.leader} confirmed offset {it.offset} without the acks of {missing}"
