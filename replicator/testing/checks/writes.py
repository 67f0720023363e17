"""No acknowledged write is lost, no write takes effect twice, and no rejected write takes effect."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import Protocol

from replicator.testing.checks.canonical import Canonical
from replicator.testing.history import Outcome


class MarkedWrite(Protocol):
    @property
    def mark(self) -> str:
        """Part of all values that it writes; writes that repeat each other share it."""
        ...

    @property
    def must_write(self) -> bool:
        """Whether it writes its mark whenever it succeeds."""
        ...

    @property
    def outcome(self) -> Outcome | None: ...


def check(writes: Iterable[MarkedWrite], canonical: Canonical) -> Iterator[str]:
    attempts: dict[str, list[MarkedWrite]] = defaultdict(list)
    for write in writes:
        attempts[write.mark].append(write)
    for mark, repeated in attempts.items():
        transactions = sorted(set(canonical.marked.get(mark, [])))
        offsets = [place.offset for place in transactions]
        outcomes = {it.outcome for it in repeated}
        if len(offsets) > 1:
            yield f"written twice, at offsets {offsets}: {repeated[0]}"
        if Outcome.OK in outcomes and repeated[0].must_write and not offsets:
            yield f"acknowledged but lost: {repeated[0]}"
        if outcomes == {Outcome.REJECTED} and offsets:
            yield f"rejected but in the log at offsets {offsets}: {repeated[0]}"
