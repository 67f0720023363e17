"""Measurements that are repeated in turn, and what they come to.

The rate of a machine changes from minute to minute. So each round measures everything once, a system right after the
one that it is compared with, and a figure is the median of its rounds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from replicator.bench.redis_benchmark import BenchmarkRun


@dataclass(frozen=True, slots=True)
class BenchmarkFigure:
    """Of all runs of one command with one load: medians, and the lowest and highest rate."""

    command: str
    load: str
    per_s: float
    lowest_per_s: float
    highest_per_s: float
    p50_ms: float
    p99_ms: float
    cpu_us: Mapping[str, float]  # for each request, by process


def summarize(runs: Sequence[BenchmarkRun]) -> list[BenchmarkFigure]:
    """In the order of the first round."""
    figures = []
    for command, load in dict.fromkeys((run.command, run.load) for run in runs):
        same = [run for run in runs if (run.command, run.load) == (command, load)]
        rates = [run.per_s for run in same]
        cpu_us = {name: median(run.cpu_us[name] for run in same) for name in same[0].cpu_us}
        times = median(run.p50_ms for run in same), median(run.p99_ms for run in same)
        figures.append(BenchmarkFigure(command, load, median(rates), min(rates), max(rates), *times, cpu_us))
    return figures


def medians(rounds: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Of the values with the same name."""
    return {name: median(values[name] for values in rounds) for name in rounds[0]}
