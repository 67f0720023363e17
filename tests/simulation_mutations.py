"""Rules broken on purpose, one at a time: the simulation must notice each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any
from unittest.mock import patch

from replicator.errors import Busy
from replicator.log.port import AppendInDoubt
from replicator.node.inflight import Inflight, Pending
from replicator.node.leader import Leader
from replicator.node.node import Node
from replicator.node.replica import Replica
from replicator.node.role import Follow, Shared
from replicator.position import Epoch, Offset
from replicator.protocol import commit
from replicator.protocol.commit import LogState
from replicator.protocol.timing import Timing
from replicator.records.types import Body, Reason
from replicator.testing import cluster


def claims_need_not_have_observed() -> AbstractContextManager[object]:
    """A claim counts though the leader wrote after what the candidate had read."""
    return patch.dict(commit.CLAIM_RULES, {Reason.ELECTION: commit._always})


def elections_are_shorter_than_leases() -> AbstractContextManager[object]:
    def candidacy_ms(self: Timing, rank: int, random: float) -> float:
        return 0.6 * self.lease_ms + rank * self.step_ms

    return patch.object(Timing, "candidacy_ms", candidacy_ms)


def leaders_ignore_what_others_wrote() -> AbstractContextManager[object]:
    """The offset in the broker's answer is not looked at."""

    async def append(self: Leader, group: list[Pending]) -> Follow | None:
        payloads, state = self._number(group)
        self._sent_ms = sent_ms = self._shared.clock.elapsed_ms()
        try:
            base = await self._shared.log.append(payloads)
        except AppendInDoubt as error:
            return Follow(str(error), self._state.offset, self._state.epoch)
        self._lease_from_ms = sent_ms
        end = Offset(base + len(group) - 1)
        self._commit(group, state._replace(offset=end, leader_offset=end))
        return None

    return patch.object(Leader, "_append", append)


def doubt_counts_as_rejection() -> AbstractContextManager[object]:
    """A write without an answer is called rejected."""

    async def append(self: Leader, group: list[Pending]) -> Follow | None:
        follow = await genuine(self, group)
        if follow is not None and follow.doubt is not None:
            self._shared.inflight.reject(Busy("no answer"))
        return follow

    genuine = Leader._append
    return patch.object(Leader, "_append", append)


def writes_are_answered_before_they_are_committed() -> AbstractContextManager[object]:
    def take(self: Inflight, max_records: int, max_bytes: int) -> list[Pending]:
        group = genuine(self, max_records, max_bytes)
        for pending in group:
            pending.answer(None, pending.offset)
        return group

    genuine = Inflight.take
    return patch.object(Inflight, "take", take)


def leaders_read_without_a_lease() -> AbstractContextManager[object]:
    def read_barrier(self: Node) -> None:
        return None

    return patch.object(Node, "read_barrier", read_barrier)


def repeated_records_count_again() -> AbstractContextManager[object]:
    """A record that landed twice is taken for the next one."""

    def judge(state: LogState, offset: Offset, record: Any) -> tuple[LogState, commit.Void | None]:
        header = record.header
        if header.seq == state.seq and header.epoch == state.epoch and header.author == state.leader:
            return state._replace(offset=offset, leader_offset=offset), None
        return genuine(state, offset, record)

    genuine = commit.judge
    return patch.multiple("replicator.node.replica", judge=judge)


def stores_forget_a_change() -> AbstractContextManager[object]:
    """The last write of a longer batch never reaches the store."""

    def apply(self: Replica, bodies: Sequence[Body], state: LogState) -> None:
        genuine(self, bodies[:-1] if len(bodies) > 4 else bodies, state)

    genuine = Replica.apply
    return patch.object(Replica, "apply", apply)


@contextmanager
def _short_memory() -> Iterator[None]:
    class Forgetful(dict[Epoch, float]):
        def setdefault(self, key: Epoch, default: float = 0.0, /) -> float:
            self[key] = default
            return default

    def shared(*args: Any, **fields: Any) -> Shared:
        return Shared(*args, **{**fields, "claims_sent_ms": Forgetful()})

    with patch.object(cluster, "Shared", shared):
        yield


def leases_run_from_the_last_copy_of_a_claim() -> AbstractContextManager[object]:
    return _short_memory()
