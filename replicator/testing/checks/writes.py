"""No acknowledged write is lost, none takes effect twice, and none that was rejected takes effect at all."""

from __future__ import annotations

from collections.abc import Iterator

from replicator.testing.checks.canonical import Canonical
from replicator.testing.history import History, Outcome


def check(history: History, canonical: Canonical) -> Iterator[str]:
    for operation in history.writes():
        offsets = canonical.written.get(operation.name, [])
        if len(offsets) > 1:
            yield f"written twice, at offsets {offsets}: {operation}"
        if operation.outcome is Outcome.OK and not offsets:
            yield f"acknowledged and lost: {operation}"
        if operation.outcome is Outcome.REJECTED and offsets:
            yield f"rejected, and yet in the log at offsets {offsets}: {operation}"
