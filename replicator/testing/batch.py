"""Many histories, on all cores."""

from __future__ import annotations

import logging
import multiprocessing
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import AbstractContextManager, nullcontext

from replicator.testing.simulation import Plan, Report, run

_CHUNK = 25

Mutation = Callable[[], AbstractContextManager[object]]
"""Breaks a rule for as long as the context lasts, to see whether the checkers notice."""


def run_all(plans: Iterable[Plan], mutation: Mutation = nullcontext) -> Iterator[Report]:
    """The report of each plan, in the order of the plans, as soon as it is there."""
    chunks = list(_chunks(plans))
    context = multiprocessing.get_context("spawn")  # a fork would copy the threads of whoever calls
    pool = ProcessPoolExecutor(os.cpu_count(), mp_context=context, initializer=_be_quiet)
    try:
        for future in [pool.submit(_run_chunk, chunk, mutation) for chunk in chunks]:
            yield from future.result()
    finally:
        pool.shutdown(cancel_futures=True)


def _chunks(plans: Iterable[Plan]) -> Iterator[list[Plan]]:
    chunk: list[Plan] = []
    for plan in plans:
        chunk.append(plan)
        if len(chunk) == _CHUNK:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


def _be_quiet() -> None:
    """Nodes complain of every fault, as they should."""
    logging.disable(logging.CRITICAL)


def _run_chunk(plans: list[Plan], mutation: Mutation) -> list[Report]:
    with mutation():
        return [run(plan) for plan in plans]
