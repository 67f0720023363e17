"""When a follower asks which process for a stream of records. Upstreams: `protocol.upstream`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from replicator.intervals import MAX_STREAM_RETRY_MS, STREAM_RETRY_MS
from replicator.position import Author
from replicator.records.types import Member


class _Attempt(NamedTuple):
    due_ms: float  # when this process may be asked again
    pause_ms: float


class UpstreamChoice:
    def __init__(self) -> None:
        self._attempts: dict[Author, _Attempt] = {}

    def next(self, upstreams: Sequence[Member], current: Author | None, now_ms: float) -> Member | None:
        """The first of `upstreams` that may be asked now; None if no one may, or if `current` is preferred to it."""
        self._attempts = {it.author: self._attempts[it.author] for it in upstreams if it.author in self._attempts}
        for member in upstreams:
            if member.author == current:
                return None
            attempt = self._attempts.get(member.author)
            if attempt is None or now_ms >= attempt.due_ms:
                return member
        return None

    def asked(self, upstream: Author, now_ms: float) -> None:
        """The pause is doubled each time, until records have come."""
        before = self._attempts.get(upstream)
        pause_ms = STREAM_RETRY_MS if before is None else min(2 * before.pause_ms, MAX_STREAM_RETRY_MS)
        self._attempts[upstream] = _Attempt(now_ms + pause_ms, pause_ms)

    def fell_behind(self, upstream: Author, now_ms: float) -> None:
        self._attempts[upstream] = _Attempt(now_ms + MAX_STREAM_RETRY_MS, MAX_STREAM_RETRY_MS)

    def brought_records(self, upstream: Author) -> None:
        self._attempts.pop(upstream, None)
