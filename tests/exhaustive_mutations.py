"""Rules broken on purpose, one at a time: the exhaustive tests must notice each."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple
from unittest.mock import patch

from replicator.position import Offset, Seq
from replicator.protocol import acceptance, claims
from replicator.protocol.lease import Lease
from replicator.protocol.log_state import LogState, Void
from replicator.protocol.roles import Role
from replicator.protocol.timing import Timing
from replicator.records.types import Claim, Reason, Record
from tests.exhaustive_time import NOW, TIMING, Append, Model, Node


class LeaseFromReceipt(Model):
    """A lease runs from when the answer came."""

    def lease_from(self, append: Append) -> int:
        return NOW


class LeaseFromLastCopy(Model):
    """A claim that was sent twice counts as sent the second time. Begins in doubt, which spares a few steps."""

    def __init__(self) -> None:
        super().__init__(operator=False)
        leader, *others = self.start.nodes
        self.start = self.start._replace(nodes=(leader._replace(role=Role.RESOLVING), *others))

    def first_sent(self, node: Node) -> int:
        return NOW


class WritesBeforeServing(Model):
    """A forced leader holds back reads, but no writes."""

    def may_write(self, node: Node) -> bool:
        return True


class HandsOverBeforeServing(Model):
    """A forced leader gives the lead away while it must wait."""

    def may_transfer(self, node: Node) -> bool:
        return True


class ServesWhileHandingOver(Model):
    """A leader goes on answering reads until its claim for another has an answer."""

    def holds_lease(self, node: Node) -> bool:
        role = Role.LEADER if node.role is Role.TRANSFERRING else node.role
        return super().holds_lease(node._replace(role=role))


def claims_need_not_have_observed() -> AbstractContextManager[Any]:
    return patch.dict(claims.CLAIM_RULES, {Reason.ELECTION: claims._always})


def doubts_are_anybodys() -> AbstractContextManager[Any]:
    return patch.dict(claims.CLAIM_RULES, {Reason.RESOLVE: claims._always, Reason.HANDOVER: claims._always})


def repeated_records_count_again() -> AbstractContextManager[Any]:
    def judge(state: LogState, offset: Offset, record: Record) -> tuple[LogState, Void | None]:
        after, void = genuine(state, offset, record)
        return after, None if void is Void.REPEATED else void

    genuine = acceptance.judge
    return patch.object(acceptance, "judge", judge)


def deposed_leaders_write_on() -> AbstractContextManager[Any]:
    """A record of another epoch that goes on from where its leader was is taken for the next one."""

    def judge(state: LogState, offset: Offset, record: Record) -> tuple[LogState, Void | None]:
        after, void = genuine(state, offset, record)
        stray = void is Void.OTHER_EPOCH and not isinstance(record.body, Claim)
        return (after._replace(seq=Seq(state.seq + 1)), None) if stray else (after, void)

    genuine = acceptance.judge
    return patch.object(acceptance, "judge", judge)


def elections_are_shorter_than_leases() -> AbstractContextManager[Any]:
    return patch.object(Timing, "candidacy_ms", lambda self, rank, random: TIMING.lease_ms - 1)


def forced_leaders_do_not_wait() -> AbstractContextManager[Any]:
    return patch.object(Lease, "claimed", lambda self, reason, sent_ms, read_ms, lease_ms: Lease(sent_ms, read_ms))


def doubts_end_the_wait_of_a_forced_leader() -> AbstractContextManager[Any]:
    def claimed(self: Lease, reason: Reason, sent_ms: float | None, read_ms: float, lease_ms: float) -> Lease:
        return genuine(Lease(), reason, sent_ms, read_ms, lease_ms)

    genuine = Lease.claimed
    return patch.object(Lease, "claimed", claimed)


def handed_over_leads_come_with_a_lease() -> AbstractContextManager[Any]:
    def claimed(self: Lease, reason: Reason, sent_ms: float | None, read_ms: float, lease_ms: float) -> Lease:
        return genuine(self, reason, read_ms if sent_ms is None else sent_ms, read_ms, lease_ms)

    genuine = Lease.claimed
    return patch.object(Lease, "claimed", claimed)


class Mutation(NamedTuple):
    model: Callable[[], Model] = Model
    patched: Callable[[], AbstractContextManager[Any]] = nullcontext


IN_THE_LOG = {
    "claims need not have observed": claims_need_not_have_observed,
    "doubts are anybody's": doubts_are_anybodys,
    "repeated records count again": repeated_records_count_again,
    "deposed leaders write on": deposed_leaders_write_on,
}

IN_TIME = {
    "claims need not have observed": Mutation(patched=claims_need_not_have_observed),
    "elections are shorter than leases": Mutation(patched=elections_are_shorter_than_leases),
    "a lease runs from the answer": Mutation(LeaseFromReceipt),
    "a lease runs from the last copy of a claim": Mutation(LeaseFromLastCopy),
    "forced leaders do not wait": Mutation(patched=forced_leaders_do_not_wait),
    "forced leaders write at once": Mutation(WritesBeforeServing),
    "forced leaders hand over at once": Mutation(lambda: HandsOverBeforeServing(nodes=3)),
    "a claim in doubt ends a forced leader's wait": Mutation(patched=doubts_end_the_wait_of_a_forced_leader),
    "leaders that hand over serve on": Mutation(ServesWhileHandingOver),
    "a lead handed over comes with a lease": Mutation(patched=handed_over_leads_come_with_a_lease),
}
