"""Requests with one id are executed at most once, and all of them have the reply of that time."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from replicator.testing.checks.canonical import Canonical
from replicator.testing.history import History, Request


def check(history: History, canonical: Canonical) -> Iterator[str]:
    answered: dict[bytes, list[Request]] = defaultdict(list)
    for request in history.answered():
        if request.id:
            answered[request.id].append(request)
    for id, offsets in canonical.once.items():
        if len(offsets) > 1:
            yield f"executed more than once as {id.decode()}: at offsets {offsets}"
    for id, requests in answered.items():
        if id not in canonical.once:
            yield f"acknowledged but lost: {requests[0]}"
        for request in requests[1:]:
            if request.reply != requests[0].reply:
                yield f"another reply than the first, which was {requests[0].reply!r}: {request}"
