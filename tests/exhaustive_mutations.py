"""Rules broken on purpose, one at a time: the exhaustive tests must detect each."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple
from unittest.mock import patch

from replicator.position import Offset, Seq
from replicator.protocol import acceptance, claims
from replicator.protocol import timing as timing_rules
from replicator.protocol.lease import Lease
from replicator.protocol.log_state import LogState, Void
from replicator.protocol.roles import Role
from replicator.protocol.timing import TimingState
from replicator.records.types import Claim, Reason, Record, Timing
from tests import exhaustive_time
from tests.exhaustive_time import NOW, STABLE_SLOW, Model, NodeModel, PendingAppend, new_timings


class LeaseFromReceipt(Model):
    """A lease starts when the answer is received."""

    def lease_from(self, append: PendingAppend) -> int:
        return NOW


class LeaseFromLastCopy(Model):
    """A claim that was sent twice counts as sent the second time. Starts while resolving, which saves a few steps."""

    def __init__(self) -> None:
        super().__init__(operator=False)
        leader, *others = self.start.nodes
        self.start = self.start._replace(nodes=(leader._replace(role=Role.RESOLVING), *others))

    def first_sent(self, node: NodeModel) -> int:
        return NOW


class WritesBeforeServing(Model):
    """A forced leader delays its reads, but not its writes."""

    def may_write(self, node: NodeModel) -> bool:
        return True


class TransfersBeforeServing(Model):
    """A forced leader transfers leadership before its wait has ended."""

    def may_transfer(self, node: NodeModel) -> bool:
        return True


class ServesWhileTransferring(Model):
    """A leader serves reads until the claim for its successor is answered."""

    def holds_lease(self, node: NodeModel) -> bool:
        role = Role.LEADER if node.role is Role.TRANSFERRING else node.role
        return super().holds_lease(node._replace(role=role))


def claims_skip_the_observed_check() -> AbstractContextManager[Any]:
    return patch.dict(claims.CLAIM_RULES, {Reason.ELECTION: claims._always})


def any_node_may_claim_to_resolve_or_transfer() -> AbstractContextManager[Any]:
    return patch.dict(claims.CLAIM_RULES, {Reason.RESOLVE: claims._always, Reason.HANDOVER: claims._always})


def repeated_records_are_accepted_again() -> AbstractContextManager[Any]:
    def judge(state: LogState, offset: Offset, record: Record) -> tuple[LogState, Void | None]:
        after, void = genuine(state, offset, record)
        return after, None if void is Void.REPEATED else void

    genuine = acceptance.judge
    return patch.object(acceptance, "judge", judge)


def deposed_leaders_continue_to_write() -> AbstractContextManager[Any]:
    """A record of an earlier epoch is accepted as the next record."""

    def judge(state: LogState, offset: Offset, record: Record) -> tuple[LogState, Void | None]:
        after, void = genuine(state, offset, record)
        stray = void is Void.OTHER_EPOCH and not isinstance(record.body, Claim)
        return (after._replace(seq=Seq(state.seq + 1)), None) if stray else (after, void)

    genuine = acceptance.judge
    return patch.object(acceptance, "judge", judge)


def elections_are_shorter_than_leases() -> AbstractContextManager[Any]:
    return patch.object(exhaustive_time, "candidacy_ms", lambda timing, rank, random: timing.lease_ms - 1)


def forced_leaders_do_not_wait() -> AbstractContextManager[Any]:
    return patch.object(Lease, "claimed", lambda self, reason, sent_ms, read_ms, lease_ms: Lease(sent_ms, read_ms))


def resolving_ends_the_wait_of_a_forced_leader() -> AbstractContextManager[Any]:
    def claimed(self: Lease, reason: Reason, sent_ms: float | None, read_ms: float, lease_ms: float) -> Lease:
        return genuine(Lease(), reason, sent_ms, read_ms, lease_ms)

    genuine = Lease.claimed
    return patch.object(Lease, "claimed", claimed)


def transferred_leadership_has_a_lease_at_once() -> AbstractContextManager[Any]:
    def claimed(self: Lease, reason: Reason, sent_ms: float | None, read_ms: float, lease_ms: float) -> Lease:
        return genuine(self, reason, read_ms if sent_ms is None else sent_ms, read_ms, lease_ms)

    genuine = Lease.claimed
    return patch.object(Lease, "claimed", claimed)


def timings_change_whatever_leases_are_held() -> AbstractContextManager[Any]:
    return patch.object(TimingState, "check_change", lambda self, timing, now_ms: timing_rules.check(timing))


def former_timings_are_forgotten() -> AbstractContextManager[Any]:
    return patch.object(TimingState, "former_left_ms", lambda self, now_ms: 0.0)


def changes_follow_each_other_at_once() -> AbstractContextManager[Any]:
    def check_change(self: TimingState, timing: Timing, now_ms: float) -> None:
        genuine(self._replace(former=None), timing, now_ms)

    genuine = TimingState.check_change
    return patch.object(TimingState, "check_change", check_change)


def removed_replicas_follow_the_present_timing() -> AbstractContextManager[Any]:
    """A leader does not wait for those that have not read it."""
    return patch.object(TimingState, "longest_follower_lease_ms", lambda self, now_ms: self.current.follower_lease_ms)


def forced_leaders_wait_by_the_present_timing() -> AbstractContextManager[Any]:
    return patch.object(
        TimingState, "longest_lease_ms", lambda self, now_ms: timing_rules.longest_lease_ms(self.current)
    )


def leases_precede_the_first_timing() -> AbstractContextManager[Any]:
    return patch.object(timing_rules, "_without_leases", lambda timing: timing)


def two_timings() -> Model:
    return Model(changes=True, timings=(STABLE_SLOW, STABLE_SLOW))


def new_cluster() -> Model:
    return Model(operator=False, changes=True, timings=new_timings())


class Mutation(NamedTuple):
    model: Callable[[], Model] = Model
    patched: Callable[[], AbstractContextManager[Any]] = nullcontext


IN_THE_LOG = {
    "claims skip the observed check": claims_skip_the_observed_check,
    "any node may claim to resolve or transfer": any_node_may_claim_to_resolve_or_transfer,
    "repeated records are accepted again": repeated_records_are_accepted_again,
    "deposed leaders continue to write": deposed_leaders_continue_to_write,
}

IN_TIME = {
    "claims skip the observed check": Mutation(patched=claims_skip_the_observed_check),
    "elections are shorter than leases": Mutation(patched=elections_are_shorter_than_leases),
    "a lease starts with the answer": Mutation(LeaseFromReceipt),
    "a lease starts with the last copy of a claim": Mutation(LeaseFromLastCopy),
    "forced leaders do not wait": Mutation(patched=forced_leaders_do_not_wait),
    "forced leaders write at once": Mutation(WritesBeforeServing),
    "forced leaders transfer at once": Mutation(lambda: TransfersBeforeServing(nodes=3)),
    "resolving ends the wait of a forced leader": Mutation(patched=resolving_ends_the_wait_of_a_forced_leader),
    "leaders serve while they transfer": Mutation(ServesWhileTransferring),
    "transferred leadership has a lease at once": Mutation(patched=transferred_leadership_has_a_lease_at_once),
    "timings change whatever leases are held": Mutation(two_timings, timings_change_whatever_leases_are_held),
    "forced leaders wait by the present timing": Mutation(two_timings, forced_leaders_wait_by_the_present_timing),
    "leases precede the first timing": Mutation(new_cluster, leases_precede_the_first_timing),
}

OF_REPLICAS = {
    "timings change whatever leases are held": timings_change_whatever_leases_are_held,
    "former timings are forgotten": former_timings_are_forgotten,
    "changes follow each other at once": changes_follow_each_other_at_once,
    "removed replicas follow the present timing": removed_replicas_follow_the_present_timing,
    "forced leaders wait by the present timing": forced_leaders_wait_by_the_present_timing,
}
