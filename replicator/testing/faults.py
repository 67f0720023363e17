"""What goes wrong in one history, and how often: drawn from the seed."""

from __future__ import annotations

import random
from dataclasses import dataclass
from enum import StrEnum


class Fate(StrEnum):
    """Of one append."""

    FINE = "fine"
    SLOW = "slow"  # lands and is answered, much later
    REFUSED = "refused"
    LOST = "request lost"
    UNANSWERED = "answer lost"
    LATE = "lands late"  # long after its author has been told that it is in doubt
    TWICE = "lands twice"


@dataclass(frozen=True, slots=True)
class Faults:
    """Chances are in [0, 1]; 0 everywhere is a cluster without faults."""

    fates: tuple[tuple[Fate, float], ...] = ()  # chance of each bad fate of an append
    delay_ms: float = 1.0  # of a message, at most
    spike: float = 0.0  # chance that a message takes up to `spike_ms` instead
    spike_ms: float = 300.0
    ack_lost: float = 0.0
    read_fails: float = 0.0
    end_fails: float = 0.0
    disturbance_ms: float = 1e12  # mean pause between two of `events`
    events: tuple[str, ...] = ()  # names of `cluster.EVENTS`

    def fate(self, rng: random.Random) -> Fate:
        luck = rng.random()
        for fate, chance in self.fates:
            luck -= chance
            if luck < 0:
                return fate
        return Fate.FINE

    def message_ms(self, rng: random.Random) -> float:
        if self.spike and rng.random() < self.spike:
            return rng.random() * self.spike_ms
        return rng.random() * self.delay_ms


NONE = Faults()


def draw(rng: random.Random, events: tuple[str, ...]) -> Faults:
    """Each kind of fault is rare, frequent or absent, so that some histories show one kind alone."""

    def chance(*choices: float) -> float:
        return rng.choice((0.0, *choices))

    return Faults(
        fates=tuple((fate, chance(0.005, 0.02, 0.1)) for fate in Fate if fate is not Fate.FINE),
        delay_ms=rng.choice((0.3, 2.0, 20.0)),
        spike=chance(0.002, 0.02),
        spike_ms=rng.choice((100.0, 400.0, 1500.0)),
        ack_lost=chance(0.05, 0.5),
        read_fails=chance(0.01, 0.1),
        end_fails=chance(0.05, 0.3),
        disturbance_ms=rng.choice((150.0, 500.0, 1500.0)),
        events=tuple(event for event in events if rng.random() < 0.6),
    )
