"""No acknowledged write is lost, no write takes effect twice, and no rejected write takes effect."""

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
            yield f"acknowledged but lost: {operation}"
        if operation.outcome is Outcome.REJECTED and offsets:
            yield f"rejected but in the log at offsets {offsets}: {operation}"
