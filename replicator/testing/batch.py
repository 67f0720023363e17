"""Runs many simulations on all cores."""

from __future__ import annotations

import logging
import multiprocessing
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext

from replicator.testing.simulation import SimulationPlan, SimulationReport, run

_CHUNK = 3  # plans: more of them would be run for nothing after the report that the caller looks for

Mutation = Callable[[], AbstractContextManager[object]]
"""Breaks a rule while the context is active, to test that the checkers detect it."""


@contextmanager
def worker_processes() -> Iterator[ProcessPoolExecutor]:
    context = multiprocessing.get_context("spawn")  # a fork would copy the caller's threads
    pool = ProcessPoolExecutor(os.cpu_count(), mp_context=context, initializer=_disable_logging)
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


def run_all(
    workers: ProcessPoolExecutor, plans: Iterable[SimulationPlan], mutation: Mutation = nullcontext
) -> Iterator[SimulationReport]:
    """Yield the report of each plan in the order of the plans, as soon as it is available."""
    futures = [workers.submit(_run_chunk, chunk, mutation) for chunk in _chunks(plans)]
    try:
        for future in futures:
            yield from future.result()
    finally:
        for future in futures:
            future.cancel()


def _chunks(plans: Iterable[SimulationPlan]) -> Iterator[list[SimulationPlan]]:
    chunk: list[SimulationPlan] = []
    for plan in plans:
        chunk.append(plan)
        if len(chunk) == _CHUNK:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


def _disable_logging() -> None:
    """Nodes log every injected fault."""
    logging.disable(logging.CRITICAL)


def _run_chunk(plans: list[SimulationPlan], mutation: Mutation) -> list[SimulationReport]:
    with mutation():
        return [run(plan) for plan in plans]
