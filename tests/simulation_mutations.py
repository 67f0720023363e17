"""Rules broken on purpose, one at a time: the simulation must notice each."""

from __future__ import annotations

import asyncio
from asyncio import Future
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import replace
from math import inf
from typing import Any
from unittest.mock import patch

from replicator import intervals
from replicator.errors import BrokerUnavailable, Busy, Definite, Stale
from replicator.log.kafka.log import KafkaLog, KnownEnd
from replicator.node import checked_reader, read_index, resolution
from replicator.node.ack_sender import AckSender
from replicator.node.announcement import Announcement
from replicator.node.appending import Appender, AppendOutcome, Committed, Misplaced
from replicator.node.checked_reader import CheckedReader
from replicator.node.client_writes import ClientWrites
from replicator.node.commit_point import CommitPoint
from replicator.node.commitment import Commitment
from replicator.node.expiry import remove_if_expired
from replicator.node.follower_reads import FollowerReads
from replicator.node.index_source import IndexAnswer, IndexSource
from replicator.node.leader_index import LeaderIndex
from replicator.node.leader_reads import LeaderReads
from replicator.node.node import Node
from replicator.node.node_link import CommittedOffset
from replicator.node.read_index import ReadIndex
from replicator.node.registration import Registration
from replicator.node.replica import Replica
from replicator.node.replica_progress import ReplicaProgress
from replicator.node.role_state import RoleState
from replicator.node.waiting_reads import WaitingReads
from replicator.node.writes import Done, PendingWrite, Writes
from replicator.position import Author, Epoch, Offset, Token
from replicator.protocol import acceptance, claims
from replicator.protocol import timing as timing_rules
from replicator.protocol.ack_policy import MAX_OFFSET, AckRequirement, local_readers
from replicator.protocol.levels import Level
from replicator.protocol.log_state import LogState, Void
from replicator.protocol.timing import LoggedTiming, TimingState
from replicator.records.types import Claim, Membership, Reason, Single, Timing
from replicator.server.redis.command import Args
from replicator.server.redis.dedup import Dedup
from replicator.server.redis.dispatch import Dispatcher
from replicator.server.redis.transaction import Watches
from replicator.store import boot
from replicator.store.machine import Machine
from replicator.store.values import expiry_of
from replicator.store.view import BlockingView, ExpiringView, Transaction, View


def claims_need_not_have_observed() -> AbstractContextManager[object]:
    """A claim counts though the leader appended after what the candidate had read."""
    return patch.dict(claims.CLAIM_RULES, {Reason.ELECTION: claims._always})


def elections_are_shorter_than_leases() -> AbstractContextManager[object]:
    def candidacy_ms(timing: Timing, rank: int, random: float) -> float:
        return 0.6 * timing.lease_ms + rank * timing.step_ms

    return patch("replicator.node.election.candidacy_ms", candidacy_ms)


def leaders_ignore_what_others_wrote() -> AbstractContextManager[object]:
    """A leader goes on from wherever its batch is, as if it had expected it there."""

    async def append(self: Appender, payloads: Sequence[bytes], expected: Offset) -> AppendOutcome:
        outcome = await genuine(self, payloads, expected)
        return Committed(self.sent_ms) if isinstance(outcome, Misplaced) else outcome

    genuine = Appender.append
    return patch.object(Appender, "append", append)


def unknown_outcomes_count_as_rejections() -> AbstractContextManager[object]:
    """A write without an answer is called rejected."""

    def append_unknown(self: RoleState) -> None:
        genuine(self)
        self._writes.fail_all(Busy("no answer"))

    genuine = RoleState.append_unknown
    return patch.object(RoleState, "append_unknown", append_unknown)


def writes_are_answered_before_they_are_committed() -> AbstractContextManager[object]:
    def send(self: Writes, group: Sequence[PendingWrite]) -> None:
        genuine(self, group)
        for pending in group:
            pending.answer(None, pending.offset)

    genuine = Writes.send
    return patch.object(Writes, "send", send)


def leaders_read_without_a_lease() -> AbstractContextManager[object]:
    def view(self: LeaderReads, level: Level | None) -> View:
        return self._health.store()

    return patch.object(LeaderReads, "view", view)


def idle_leaders_read_without_a_lease() -> AbstractContextManager[object]:
    def lease_left_ms(self: RoleState) -> float:
        return genuine(self) or (float(self.timing.current.lease_ms) if self.is_idle else 0.0)

    genuine = RoleState.lease_left_ms
    return patch.object(RoleState, "lease_left_ms", lease_left_ms)


def repeated_records_count_again() -> AbstractContextManager[object]:
    """A record that was appended twice is taken for the next one."""

    def judge(state: LogState, offset: Offset, record: Any) -> tuple[LogState, Void | None]:
        header = record.header
        if header.seq == state.seq and header.epoch == state.epoch and header.author == state.leader:
            return state._replace(offset=offset, leader_offset=offset), None
        return genuine(state, offset, record)

    genuine = acceptance.judge
    return patch.multiple("replicator.node.replica", judge=judge)


def stores_forget_a_change() -> AbstractContextManager[object]:
    """The last write of a longer batch never reaches the store."""

    def apply(
        self: Replica, bodies: Sequence[Single], state: LogState, written_us: int, commands: Sequence[int]
    ) -> None:
        genuine(self, bodies[:-1] if len(bodies) > 4 else bodies, state, written_us, commands)

    genuine = Replica.apply
    return patch.object(Replica, "apply", apply)


def leases_run_from_the_last_copy_of_a_claim() -> AbstractContextManager[object]:
    def claim_sent(self: RoleState, epoch: Epoch) -> None:
        self._claims_sent_ms.pop(epoch, None)
        genuine(self, epoch)

    genuine = RoleState.claim_sent
    return patch.object(RoleState, "claim_sent", claim_sent)


def timings_change_whatever_leases_are_held() -> AbstractContextManager[object]:
    """A change takes no account of the leases of the timing before it."""
    return patch.object(TimingState, "check_change", lambda self, timing, now_ms: timing_rules.check(timing))


def nodes_follow_their_own_config() -> AbstractContextManager[object]:
    """A node takes the timing from its config, whatever the log says."""

    def opened(logged: LoggedTiming, configured: Timing, now_ms: float) -> TimingState:
        return TimingState(configured, None, now_ms)

    return patch.multiple(TimingState, opened=staticmethod(opened), read=lambda self, timing, now_ms: self)


def leases_precede_the_first_timing() -> AbstractContextManager[object]:
    """The leader of a new cluster has a lease of its own config before the others know it."""
    return patch.object(timing_rules, "_without_leases", lambda timing: timing)


def replicas_ignore_suspensions() -> AbstractContextManager[object]:
    """A sync replica answers reads of keys that are about to change elsewhere."""
    return _blocking_nothing(FollowerReads, "_unsuspended")


@contextmanager
def _blocking_nothing(reads: type, view: str) -> Iterator[None]:
    """For nodes that are created meanwhile: a blocking view of theirs lets everything through."""
    genuine = reads.__init__  # type: ignore[misc]

    def __init__(self: Any, *arguments: Any) -> None:
        genuine(self, *arguments)
        getattr(self, view)._is_blocked = lambda key: False

    with patch.object(reads, "__init__", __init__):
        yield


def follower_leases_never_end() -> AbstractContextManager[object]:
    """A sync replica that receives nothing any more goes on answering."""

    def reads_locally(self: FollowerReads) -> bool:
        membership = self._context.replica.machine.meta.membership
        return self.index.age_ms < inf and self._context.author in local_readers(membership)

    return patch.object(FollowerReads, "reads_locally", property(reads_locally))


def follower_leases_need_no_question() -> AbstractContextManager[object]:
    """A sync replica answers from its start on, before it knows whether it has read all."""

    def reads_locally(self: FollowerReads) -> bool:
        return self._context.author in local_readers(self._context.replica.machine.meta.membership)

    return patch.object(FollowerReads, "reads_locally", property(reads_locally))


def replicas_that_read_locally_no_more_are_not_waited_for() -> AbstractContextManager[object]:
    """Writes go on as soon as a replica is sync no more, which it may not have read yet."""

    def membership_changed(self: RoleState, *_: object) -> None:
        pass

    return patch.object(RoleState, "membership_changed", membership_changed)


def replaced_processes_go_on() -> AbstractContextManager[object]:
    return patch.object(Registration, "replaced_by", lambda self, header, membership: None)


def replaced_processes_are_not_waited_for() -> AbstractContextManager[object]:
    """Writes go on as soon as another process is registered, which the one before may not have read yet."""

    def membership_changed(self: RoleState, before: Membership, after: Membership) -> None:
        genuine(self, anonymous(before), anonymous(after))

    def anonymous(membership: Membership) -> Membership:
        return replace(membership, members=tuple(replace(member, incarnation=0) for member in membership.members))

    genuine = RoleState.membership_changed
    return patch.object(RoleState, "membership_changed", membership_changed)


def acks_count_whichever_process_sends_them() -> AbstractContextManager[object]:
    """The new process of a node acks what the old one, which reads locally, has not read."""

    def record(self: ReplicaProgress, payload: bytes, sender: Author | None = None) -> None:
        ack = self._codec.decode(payload)
        for member in self._members:
            if member.node == ack.author.node:
                genuine(self, self._codec.encode(ack._replace(author=member)))

    def has_leader(self: AckSender) -> bool:
        return bool(self._replica.state.timeline)

    genuine = ReplicaProgress.record
    broken = ExitStack()
    broken.enter_context(patch.object(ReplicaProgress, "record", record))
    broken.enter_context(patch.object(AckSender, "_is_registered", property(has_leader)))
    return broken


def processes_read_locally_before_they_are_registered() -> AbstractContextManager[object]:
    def reads_locally(self: FollowerReads) -> bool:
        readers = {reader.node for reader in local_readers(self._context.replica.machine.meta.membership)}
        within_lease = self.index.age_ms <= self._context.timing.follower_lease_ms
        return within_lease and self._context.author.node in readers

    return patch.object(FollowerReads, "reads_locally", property(reads_locally))


def writes_wait_for_no_acks() -> AbstractContextManager[object]:
    def confirmed(self: AckRequirement, acked: object) -> Offset:
        return MAX_OFFSET

    return patch.object(AckRequirement, "confirmed", confirmed)


def writes_are_not_announced() -> AbstractContextManager[object]:
    """Suspend mode without the first of its two rounds."""

    def next_group(self: Announcement, announce: bool) -> list[PendingWrite]:
        writes = self._context.writes
        group = writes.next(1000, 1_000_000)
        writes.send(group)
        return group

    return patch.object(Announcement, "next_group", next_group)


def leaders_show_keys_in_flight() -> AbstractContextManager[object]:
    """The old value at the leader, while a replica may show the new one."""
    return _blocking_nothing(LeaderReads, "_current")


def leaders_trust_what_they_inherit() -> AbstractContextManager[object]:
    """The new value at a new leader, while a replica may show the old one."""
    return _blocking_nothing(LeaderReads, "_acknowledged")


def transactions_trust_what_they_inherit() -> AbstractContextManager[object]:
    """The new value at a new leader in a transaction that changes nothing, while a replica may show the old one."""
    return patch("replicator.node.client_writes.is_inherited", lambda suspension, term_start: False)


def leaders_hide_rows_by_their_clock() -> AbstractContextManager[object]:
    """A row that has expired is gone at the leader before it is deleted."""

    def get(self: ExpiringView, key: bytes) -> bytes | None:
        value = self._base.get(key)
        expires_at_ms = expiry_of(value)
        return None if expires_at_ms is not None and expires_at_ms <= self._now_ms else value

    return patch.object(ExpiringView, "get", get)


def releases_wait_for_nobody() -> AbstractContextManager[object]:
    """A new leader releases what was invalidated before all replicas have read up to its claim."""

    def release(self: Commitment, confirmed: Offset) -> None:
        genuine(self, MAX_OFFSET)

    genuine = Commitment._release_confirmed
    return patch.object(Commitment, "_release_confirmed", release)


def unacknowledged_writes_are_confirmed() -> AbstractContextManager[object]:
    """A leader that stepped down answers OK though it does not know whether the sync replicas have the write."""
    return patch.object(Writes, "await_acks", Writes.apply)


def sessions_wait_for_nothing() -> AbstractContextManager[object]:
    def session_view(self: WaitingReads, token: Token, store: View) -> View | Future[View]:
        return store

    return patch.object(WaitingReads, "session_view", session_view)


def the_read_index_is_the_end_of_the_log() -> AbstractContextManager[object]:
    """A deposed broker answers its old end, without an error."""

    async def ask(self: IndexSource) -> IndexAnswer:
        asked_ms = self._context.clock.elapsed_ms()
        try:
            return IndexAnswer(asked_ms, Offset(await self._context.log.end() - 1))
        except BrokerUnavailable as error:
            raise Stale(str(error)) from error

    return patch.object(IndexSource, "ask", ask)


def leaders_answer_other_nodes_without_a_lease() -> AbstractContextManager[object]:
    async def committed_offset(self: LeaderIndex, timeline: bytes, epoch: Epoch) -> CommittedOffset:
        self._check_leads(timeline, epoch)
        offset = await asyncio.shield(self._context.commit_point.get())
        return CommittedOffset(offset, inf, self._context.replica.state.epoch, self._context.author)

    return patch.object(LeaderIndex, "committed_offset", committed_offset)


def nodes_trust_the_leader_of_another_log() -> AbstractContextManager[object]:
    """A node that has read lost records takes the answer of a leader that has not for its own log."""
    return patch.object(read_index, "check_term", lambda state, epoch, leader: None)


def leaders_forget_the_append_in_flight() -> AbstractContextManager[object]:
    """A replica may show a record already that its leader does not know to be committed."""
    return patch.object(CommitPoint, "set_unknown", lambda self: None)


def barriers_are_not_appended() -> AbstractContextManager[object]:
    """A node that cannot reach the leader trusts the log that it has read."""

    async def append_barrier(self: IndexSource) -> IndexAnswer:
        return IndexAnswer(self._context.clock.elapsed_ms(), self._context.replica.state.offset)

    return patch.object(IndexSource, "_append_barrier", append_barrier)


def bounds_are_ten_times_as_wide() -> AbstractContextManager[object]:
    def is_within(self: ReadIndex, max_age_ms: float, max_records: int) -> bool:
        return genuine(self, 10 * max_age_ms, max_records)

    genuine = ReadIndex.is_within
    return patch.object(ReadIndex, "is_within", is_within)


def deletions_are_not_waited_for() -> AbstractContextManager[object]:
    """A row that has expired is gone at the leader once its deletion is queued."""

    async def when_deleted(self: LeaderReads, key: bytes, now_ms: int, shown: frozenset[bytes]) -> View:
        with suppress(Definite):
            transaction = self._client_writes.begin()
            if remove_if_expired(transaction, key, now_ms):
                self._client_writes.submit(transaction, lambda error, offset: None)
        view = self._context.replica.machine.view
        gone = BlockingView(view, lambda: (), lambda key: False, self._when_acknowledged)
        gone.get = self._context.writes.overlay.get  # type: ignore[method-assign]
        return gone

    return patch.object(LeaderReads, "_when_deleted", when_deleted)


@contextmanager
def rows_expire_early() -> Iterator[None]:
    """The leader deletes rows a second before their time."""

    def expired(self: Machine, now_ms: int, limit: int) -> list[bytes]:
        return genuine_expired(self, now_ms + 1000, limit)

    def remove(transaction: Transaction, key: bytes, now_ms: int) -> bool:
        return remove_if_expired(transaction, key, now_ms + 1000)

    def next_expiry_ms(self: Machine) -> int | None:
        due_ms = genuine_next(self)
        return None if due_ms is None else due_ms - 1000

    genuine_expired, genuine_next = Machine.expired, Machine.next_expiry_ms
    with (
        patch.multiple(Machine, expired=expired, next_expiry_ms=next_expiry_ms),
        patch("replicator.node.expiry.remove_if_expired", remove),
    ):
        yield


def watches_miss_changes() -> AbstractContextManager[object]:
    return patch.object(Watches, "on_change", lambda self, table, row: None)


def watches_miss_expiries() -> AbstractContextManager[object]:
    """A watched row that has expired is not a change: the transaction reads it as gone."""
    return patch("replicator.server.redis.dispatch._has_expired", lambda keyspace, watched: False)


def watches_miss_writes_that_are_queued() -> AbstractContextManager[object]:
    """A write that was queued before a row was watched, and that its client could not read yet, is not a change."""
    return patch.object(Dispatcher, "_is_changing", lambda self, watched: False)


def transactions_are_split() -> AbstractContextManager[object]:
    """Each change of a transaction is a record of its own."""

    def submit(self: ClientWrites, transaction: Transaction, done: Done, executed: object = None) -> None:
        *others, last = [{key: change} for key, change in transaction.changes.items()] or [{}]
        for changes in others:
            transaction._changes = changes
            genuine(self, transaction, lambda error, offset: None)
        transaction._changes = last
        genuine(self, transaction, done)

    genuine = ClientWrites.submit
    return patch.object(ClientWrites, "submit", submit)


def commands_without_changes_do_not_wait() -> AbstractContextManager[object]:
    """They show the writes in flight, and the store of a leader without a lease."""

    def is_confirmed(self: ClientWrites) -> bool:
        return self._context.replica.machine.next_expiry_ms() is None  # or the deletion of expired rows never waits

    return patch.object(ClientWrites, "_is_confirmed", is_confirmed)


def ids_are_not_found() -> AbstractContextManager[object]:
    """A command that is repeated with its id is executed again."""
    return patch.object(Dedup, "find", lambda self, id, line: None)


def ids_are_found_without_their_replies() -> AbstractContextManager[object]:
    """A command that is repeated with its id has no effect, and an empty reply."""

    def find(self: Dedup, id: bytes, line: Args) -> bytes | None:
        return genuine(self, id, line) and b"_\r\n"

    genuine = Dedup.find
    return patch.object(Dedup, "find", find)


def tokens_cover_only_writes() -> AbstractContextManager[object]:
    """A session does not include what its client has read."""

    def token(self: Node, written: Offset) -> Token:
        return genuine(self, written)._replace(offset=written)

    genuine = Node.token
    return patch.object(Node, "token", token)


def stores_are_trusted_after_a_crash_of_the_system() -> AbstractContextManager[object]:
    """A store that was open when the system crashed is opened, whatever its file has become."""
    return patch.object(boot, "crashed", lambda folder, this_boot: False)


def checkpoints_wait_for_every_record() -> AbstractContextManager[object]:
    """Writes stop if acks take longer than the time between two heartbeats."""
    return patch.object(Writes, "changes_sent", property(lambda self: bool(self._sent)))


def claims_do_not_back_off() -> AbstractContextManager[object]:
    """A leader that resolves an append claims as often as it can."""
    return patch.object(resolution, "MAX_RESOLVE_RETRY_MS", intervals.RESOLVE_RETRY_MS)


def releases_are_appended_once() -> AbstractContextManager[object]:
    """A release that the log has refused is forgotten."""

    def release(self: Commitment, confirmed: Offset) -> None:
        self._release = None
        genuine(self, confirmed)

    genuine = Commitment._release_confirmed
    return patch.object(Commitment, "_release_confirmed", release)


def announcements_are_withdrawn_once() -> AbstractContextManager[object]:
    """A withdrawal that the log has refused is forgotten, and what earlier leaders announced is not withdrawn."""
    return patch.object(Announcement, "_are_awaited_in_vain", lambda self: False)


def stores_are_not_compared_with_the_log() -> AbstractContextManager[object]:
    """A node reads on where its store ends, whatever the log now holds below that."""
    return patch.object(CheckedReader, "compare_again", CheckedReader._go_on)


def a_log_that_ends_too_early_is_waited_for() -> AbstractContextManager[object]:
    """A node waits for ever for the record that it compares its store with."""
    return patch.object(checked_reader, "TRUNCATED_MS", inf)


def leaders_do_not_look_for_their_last_append() -> AbstractContextManager[object]:
    """A leader that reads up to its last append goes on whether it is there or not."""
    return patch.object(resolution, "verify_appended", lambda state, last: None)


def barriers_below_the_end_of_the_store_count() -> AbstractContextManager[object]:
    """A barrier at an offset that the store has already read is taken for a read index."""
    return patch("replicator.node.index_source.check_appended", lambda state, base: None)


def later_leaders_of_the_partition_are_not_believed() -> AbstractContextManager[object]:
    """An end below a known one counts as that of a former leader, whoever reports it."""

    def note_end(self: KafkaLog, end: Offset, epoch: int) -> None:
        self._known = KnownEnd(MAX_OFFSET, max(self._known.end, end))

    return patch.object(KafkaLog, "_note_end", note_end)


def records_of_a_later_epoch_are_void() -> AbstractContextManager[object]:
    """Records whose claim was lost are skipped."""

    def judge(state: LogState, offset: Offset, record: Any) -> tuple[LogState, Void | None]:
        if record.header.epoch > state.epoch and not isinstance(record.body, Claim):
            return acceptance.skip(state, offset), Void.OTHER_EPOCH
        return genuine(state, offset, record)

    genuine = acceptance.judge
    return patch.multiple("replicator.node.replica", judge=judge)
