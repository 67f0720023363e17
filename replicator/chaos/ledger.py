"""What became of each write of a chaos run, and when writes were acknowledged."""

from __future__ import annotations

import time
from collections.abc import Iterable
from enum import IntEnum
from itertools import pairwise
from typing import NamedTuple

SETTLED_WRITES = 100  # by which all clients have found the new leader


class End(IntEnum):
    UNKNOWN = 0  # also: not ended yet
    REJECTED = 1
    ACKNOWLEDGED = 2

    def then(self, again: End) -> End:
        """The end of a write that was tried twice: it is there if either was, and not there if neither was."""
        return max(self, again) if End.ACKNOWLEDGED in (self, again) else min(self, again)


class Acknowledgement(NamedTuple):
    at_s: float
    node: str


class Faults(NamedTuple):
    """What must not be."""

    lost: int  # acknowledged, and not there
    rejected_there: int


class Ledger:
    """Writes have numbers, from 0; write 7 sets `<prefix>7` to 7."""

    def __init__(self, prefix: str) -> None:
        self.prefix = prefix
        self.failed_twice = 0  # since `begin`
        self.acknowledged: list[Acknowledgement] = []  # since `begin`
        self.latest: int | None = None  # the last one acknowledged
        self._ends = bytearray()

    def __len__(self) -> int:
        return len(self._ends)

    def key(self, number: int) -> str:
        return f"{self.prefix}{number}"

    def begin(self) -> None:
        """Another run."""
        self.failed_twice = 0
        self.acknowledged.clear()

    def open(self) -> int:
        """A new write."""
        self._ends.append(End.UNKNOWN)
        return len(self._ends) - 1

    def note(self, number: int, end: End, node: str) -> None:
        self._ends[number] = end
        if end is End.ACKNOWLEDGED:
            self.latest = number
            self.acknowledged.append(Acknowledgement(time.monotonic(), node))

    def elsewhere(self, node: str) -> int:
        """How many writes of this run other nodes have acknowledged."""
        return sum(it.node != node for it in self.acknowledged)

    def pause_s(self, since_s: float, leader: str) -> float:
        """The longest time without an acknowledgement, from `since_s` until others than `leader` have given some."""
        times: list[float] = []
        elsewhere = 0
        for at_s, node in self.acknowledged:
            times.append(at_s)
            elsewhere += node != leader
            if elsewhere == SETTLED_WRITES:
                break
        return max((after - before for before, after in pairwise(times) if after >= since_s), default=0.0)

    def count(self, numbers: range) -> int:
        """How many of them were acknowledged."""
        return self._ends.count(End.ACKNOWLEDGED, numbers.start, numbers.stop)

    def check(self, numbers: range, found: Iterable[bytes | None]) -> Faults:
        """`found`: what a node holds under their keys."""
        lost = rejected_there = 0
        for number, value in zip(numbers, found, strict=True):
            there, end = value == b"%d" % number, self._ends[number]
            lost += end == End.ACKNOWLEDGED and not there
            rejected_there += end == End.REJECTED and there
        return Faults(lost, rejected_there)
