"""The faults of one simulation and their probabilities, drawn from the seed."""

from __future__ import annotations

import random
from dataclasses import dataclass
from enum import StrEnum

_LOSS = 0.1  # less is promised afterwards


class AppendFault(StrEnum):
    NONE = "none"
    SLOW = "slow"  # appended and answered after a long delay
    REFUSED = "refused"
    LOST = "request lost"
    UNANSWERED = "answer lost"
    LATE = "appended late"  # long after the outcome was reported as unknown
    TWICE = "appended twice"


@dataclass(frozen=True, slots=True)
class Faults:
    """Probabilities are in [0, 1]. The defaults are a cluster without faults."""

    append_faults: tuple[tuple[AppendFault, float], ...] = ()  # probability of each
    delay_ms: float = 1.0  # maximum delay of a message
    spike: float = 0.0  # probability that a message takes up to `spike_ms` instead
    spike_ms: float = 300.0
    ack_lost: float = 0.0
    read_fails: float = 0.0
    end_fails: float = 0.0
    question_lost: float = 0.0  # of one node to another
    disturbance_ms: float = 1e12  # mean time between two of `events`
    events: tuple[str, ...] = ()  # names in `nemesis.EVENTS`
    stream_message_fails: float = 0.0  # that a message of a link is lost or overtaken
    loses_records: bool = False  # whether Kafka loses acknowledged records once

    def append_fault(self, rng: random.Random) -> AppendFault:
        sample = rng.random()
        for fault, probability in self.append_faults:
            sample -= probability
            if sample < 0:
                return fault
        return AppendFault.NONE

    def message_ms(self, rng: random.Random) -> float:
        if self.spike and rng.random() < self.spike:
            return rng.random() * self.spike_ms
        return rng.random() * self.delay_ms


NO_FAULTS = Faults()


def draw(rng: random.Random, events: tuple[str, ...], *, only: tuple[str, ...], loss: bool | None) -> Faults:
    """Each kind of fault is absent, rare or frequent, so that some simulations have faults of a single kind.

    `only`: these events instead, unless it is empty. `loss`: whether Kafka loses records; None: rarely.
    """

    def probability(*choices: float) -> float:
        return rng.choice((0.0, *choices))

    return Faults(
        append_faults=tuple(
            (fault, probability(0.005, 0.02, 0.1)) for fault in AppendFault if fault is not AppendFault.NONE
        ),
        delay_ms=rng.choice((0.3, 2.0, 20.0)),
        spike=probability(0.002, 0.02),
        spike_ms=rng.choice((100.0, 400.0, 1500.0)),
        ack_lost=probability(0.05, 0.5),
        read_fails=probability(0.01, 0.1),
        end_fails=probability(0.05, 0.3),
        question_lost=probability(0.02, 0.2),
        disturbance_ms=rng.choice((150.0, 500.0, 1500.0)),
        events=only or tuple(event for event in events if rng.random() < 0.6),
        loses_records=rng.random() < _LOSS if loss is None else loss,
        stream_message_fails=probability(0.002, 0.05),
    )
