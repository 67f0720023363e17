"""Rules broken on purpose, one at a time: the simulation must notice each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from math import inf
from typing import Any
from unittest.mock import patch

from replicator.errors import Busy
from replicator.log.port import AppendOutcomeUnknown
from replicator.node.announcement import Announcement
from replicator.node.commitment import Commitment
from replicator.node.context import Follow, NodeContext, RoleState
from replicator.node.leader import Leader
from replicator.node.read_index import ReadIndex
from replicator.node.reads import Reads
from replicator.node.replica import Replica
from replicator.node.writes import PendingWrite, Writes
from replicator.position import Epoch, Offset, Seq
from replicator.protocol import acceptance, claims
from replicator.protocol.ack_policy import MAX_OFFSET, AckRequirement, local_readers
from replicator.protocol.levels import Level
from replicator.protocol.log_state import LogState, Void
from replicator.protocol.roles import Event, Role
from replicator.protocol.suspension import NONE, SuspendedKeys
from replicator.protocol.timing import Timing
from replicator.records.types import Body, Reason
from replicator.store.view import View
from replicator.testing import cluster


def claims_need_not_have_observed() -> AbstractContextManager[object]:
    """A claim counts though the leader wrote after what the candidate had read."""
    return patch.dict(claims.CLAIM_RULES, {Reason.ELECTION: claims._always})


def elections_are_shorter_than_leases() -> AbstractContextManager[object]:
    def candidacy_ms(self: Timing, rank: int, random: float) -> float:
        return 0.6 * self.lease_ms + rank * self.step_ms

    return patch.object(Timing, "candidacy_ms", candidacy_ms)


def leaders_ignore_what_others_wrote() -> AbstractContextManager[object]:
    """The offset in the broker's answer is not looked at."""

    async def append(self: Leader, group: list[PendingWrite]) -> Follow | None:
        payloads, state = self._number(group)
        self._sent_ms = sent_ms = self._context.clock.elapsed_ms()
        try:
            base = await self._context.log.append(payloads)
        except AppendOutcomeUnknown as error:
            self._context.standing.met(Event.APPEND_OUTCOME_UNKNOWN)
            return Follow(str(error))
        self._context.standing.lease = self._context.standing.lease.renewed(sent_ms)
        end = Offset(base + len(group) - 1)
        self._state = state._replace(offset=end, leader_offset=end)
        self._commitment.add(group, self._state)
        return None

    return patch.object(Leader, "_append", append)


def doubt_counts_as_rejection() -> AbstractContextManager[object]:
    """A write without an answer is called rejected."""

    async def append(self: Leader, group: list[PendingWrite]) -> Follow | None:
        follow = await genuine(self, group)
        if self._context.standing.role is Role.RESOLVING:
            self._context.inflight.reject(Busy("no answer"))
        return follow

    genuine = Leader._append
    return patch.object(Leader, "_append", append)


def writes_are_answered_before_they_are_committed() -> AbstractContextManager[object]:
    def take(self: Writes, group: Sequence[PendingWrite]) -> None:
        genuine(self, group)
        for pending in group:
            pending.answer(None, pending.offset)

    genuine = Writes.take
    return patch.object(Writes, "take", take)


def leaders_read_without_a_lease() -> AbstractContextManager[object]:
    def now(self: Reads, level: Level | None) -> View:
        return self.store()

    return patch.object(Reads, "now", now)


def repeated_records_count_again() -> AbstractContextManager[object]:
    """A record that landed twice is taken for the next one."""

    def judge(state: LogState, offset: Offset, record: Any) -> tuple[LogState, Void | None]:
        header = record.header
        if header.seq == state.seq and header.epoch == state.epoch and header.author == state.leader:
            return state._replace(offset=offset, leader_offset=offset), None
        return genuine(state, offset, record)

    genuine = acceptance.judge
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

    def context(*args: Any, **fields: Any) -> NodeContext:
        return NodeContext(*args, **{**fields, "claims_sent_ms": Forgetful()})

    with patch.object(cluster, "NodeContext", context):
        yield


def leases_run_from_the_last_copy_of_a_claim() -> AbstractContextManager[object]:
    return _short_memory()


def replicas_ignore_suspensions() -> AbstractContextManager[object]:
    """A sync replica answers reads of keys that are about to change elsewhere."""

    def following_view(self: Reads, since: Seq) -> View:
        return self.store()

    return patch.object(Reads, "following_view", following_view)


def follower_leases_never_end() -> AbstractContextManager[object]:
    """A sync replica that hears nothing any more goes on answering."""

    def reads_locally(self: Reads) -> bool:
        membership = self.context.replica.machine.meta.membership
        return self.index.age_ms < inf and self.context.author.node in local_readers(membership)

    return patch.object(Reads, "reads_locally", property(reads_locally))


def follower_leases_need_no_question() -> AbstractContextManager[object]:
    """A sync replica answers from its start on, before it knows whether it has read all."""

    def reads_locally(self: Reads) -> bool:
        return self.context.author.node in local_readers(self.context.replica.machine.meta.membership)

    return patch.object(Reads, "reads_locally", property(reads_locally))


def who_reads_locally_no_more_is_not_waited_for() -> AbstractContextManager[object]:
    """Writes go on as soon as a replica is sync no more, which it may not have read yet."""

    def note_membership(self: RoleState, *_: object) -> None:
        pass

    return patch.object(RoleState, "note_membership", note_membership)


def writes_wait_for_no_acks() -> AbstractContextManager[object]:
    def confirmed(self: AckRequirement, acked: object) -> Offset:
        return MAX_OFFSET

    return patch.object(AckRequirement, "confirmed", confirmed)


def writes_are_not_announced() -> AbstractContextManager[object]:
    """Suspend mode without the first of its two rounds."""

    def next_group(self: Announcement, announce: bool) -> list[PendingWrite]:
        group = self._inflight.next(1000, 1_000_000)
        self._inflight.take(group)
        return group

    return patch.object(Announcement, "next_group", next_group)


def leaders_show_keys_in_flight() -> AbstractContextManager[object]:
    """The old value at the leader, while a replica may show the new one."""

    def leading_view(self: Reads, leader: Leader) -> View:
        return self.inherited_view(leader)

    return patch.object(Reads, "leading_view", leading_view)


def leaders_trust_what_they_inherit() -> AbstractContextManager[object]:
    """The new value at a new leader, while a replica may show the old one."""

    def inherited_view(self: Reads, leader: Leader) -> View:
        return self.store()

    return patch.object(Reads, "inherited_view", inherited_view)


def releases_wait_for_nobody() -> AbstractContextManager[object]:
    """A new leader releases what was invalidated before all replicas have read up to its claim."""

    def release(self: Commitment, confirmed: Offset) -> None:
        genuine(self, MAX_OFFSET)

    genuine = Commitment._release
    return patch.object(Commitment, "_release", release)


def what_has_landed_is_confirmed() -> AbstractContextManager[object]:
    """A deposed leader answers OK though it does not know whether the sync replicas have the write."""

    return patch.object(Writes, "land", Writes.applied)


def claims_release_what_was_written() -> AbstractContextManager[object]:
    """In invalidate mode, a new leader's claim alone ends the suspensions."""

    def claim(self: SuspendedKeys) -> None:
        for key in list(self.keys):
            self._set(key, NONE)

    return patch.object(SuspendedKeys, "claim", claim)


def sessions_wait_for_nothing() -> AbstractContextManager[object]:
    def now(self: Reads, level: Level | None) -> View | None:
        return self.store() if level is not None and level.token is not None else genuine(self, level)

    genuine = Reads.now
    return patch.object(Reads, "now", now)


def bounds_are_ten_times_as_wide() -> AbstractContextManager[object]:
    def is_within(self: ReadIndex, max_age_ms: float, max_records: int) -> bool:
        return genuine(self, 10 * max_age_ms, max_records)

    genuine = ReadIndex.is_within
    return patch.object(ReadIndex, "is_within", is_within)
