"""The outcome of each write of a chaos run, and when writes were acknowledged."""

from __future__ import annotations

import time
from collections.abc import Iterable
from enum import IntEnum
from itertools import pairwise
from typing import NamedTuple

SETTLED_WRITES = 100  # after so many writes, all clients have found the new leader


class WriteOutcome(IntEnum):
    UNKNOWN = 0  # also: no reply yet
    REJECTED = 1
    ACKNOWLEDGED = 2

    def then(self, again: WriteOutcome) -> WriteOutcome:
        """The outcome of a write that was tried twice: acknowledged if either try was, rejected if both were."""
        return max(self, again) if WriteOutcome.ACKNOWLEDGED in (self, again) else min(self, again)


class Acknowledgement(NamedTuple):
    at_s: float
    node: str


class WriteFaults(NamedTuple):
    """Numbers of writes that break the guarantees."""

    lost: int  # acknowledged, but missing
    rejected_there: int  # rejected, but present


class WriteLedger:
    """Writes are numbered from 0; write 7 sets `<prefix>7` to 7."""

    def __init__(self, prefix: str) -> None:
        self.prefix = prefix
        self.failed_twice = 0  # since `begin`
        self.acknowledged: list[Acknowledgement] = []  # since `begin`
        self.latest: int | None = None  # the last acknowledged write
        self._outcomes = bytearray()

    def __len__(self) -> int:
        return len(self._outcomes)

    def key(self, number: int) -> str:
        return f"{self.prefix}{number}"

    def begin(self) -> None:
        """Start another run."""
        self.failed_twice = 0
        self.acknowledged.clear()

    def open(self) -> int:
        """Add a write, and return its number."""
        self._outcomes.append(WriteOutcome.UNKNOWN)
        return len(self._outcomes) - 1

    def record(self, number: int, outcome: WriteOutcome, node: str) -> None:
        """`node`: the one that answered."""
        self._outcomes[number] = outcome
        if outcome is WriteOutcome.ACKNOWLEDGED:
            self.latest = number
            self.acknowledged.append(Acknowledgement(time.monotonic(), node))

    def acknowledged_elsewhere(self, node: str) -> int:
        """How many writes of this run nodes other than `node` have acknowledged."""
        return sum(it.node != node for it in self.acknowledged)

    def pause_s(self, since_s: float, leader: str) -> float:
        """The longest time between two acknowledgements, from `since_s` until another leader has given 100 of them."""
        times: list[float] = []
        elsewhere = 0
        for at_s, node in self.acknowledged:
            times.append(at_s)
            elsewhere += node != leader
            if elsewhere == SETTLED_WRITES:
                break
        return max((after - before for before, after in pairwise(times) if after >= since_s), default=0.0)

    def longest_gap_s(self, since_s: float) -> float:
        """The longest time between two acknowledgements of this run that ended after `since_s`."""
        times = [it.at_s for it in self.acknowledged]
        return max((after - before for before, after in pairwise(times) if after >= since_s), default=0.0)

    def count(self, numbers: range) -> int:
        """How many of these writes were acknowledged."""
        return self._outcomes.count(WriteOutcome.ACKNOWLEDGED, numbers.start, numbers.stop)

    def check(self, numbers: range, found: Iterable[bytes | None]) -> WriteFaults:
        """`found`: the values of their keys on a node."""
        lost = rejected_there = 0
        for number, value in zip(numbers, found, strict=True):
            present, outcome = value == b"%d" % number, self._outcomes[number]
            lost += outcome == WriteOutcome.ACKNOWLEDGED and not present
            rejected_there += outcome == WriteOutcome.REJECTED and present
        return WriteFaults(lost, rejected_there)
