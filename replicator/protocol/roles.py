"""The roles of a node, the events that change them, and the effect of an event on the writes in flight.

    follower       reads the log
    candidate      reads the log, and has sent a claim: the log decides whether it counts
    leader         appends and serves; does not read the log
    draining       leader that transfers leadership: it sends no more client writes, and waits for acks
    transferring   appends the claim that names its successor; serves nothing
    stepping down  that claim is in the log; queued client writes are kept until the successor's first record is read:
                   clients that then retry find the successor
    checking       was leader; its last append is at another offset than expected, or could not be applied: it reads
                   the log up to there
    resolving      was leader; the outcome of its last append is unknown: it claims again in its own name, and reads
                   the log up to that claim

A node becomes leader because a claim that names it was accepted, and for no other reason; `checking` ends without a new
claim if no other node's claim precedes the append. An accepted claim that names another node ends every role. A
transition that is not in `TRANSITIONS` cannot happen. For example, a leader whose append has an unknown outcome never
resumes without a claim.

A process starts as follower, whatever it was before: its incarnation is new.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import NamedTuple

from replicator.errors import ReplicatorError


class Role(StrEnum):
    FOLLOWER = "follower"
    CANDIDATE = "candidate"
    LEADER = "leader"
    DRAINING = "draining"
    TRANSFERRING = "transferring"
    STEPPING_DOWN = "stepping down"
    CHECKING = "checking"
    RESOLVING = "resolving"

    @property
    def leads(self) -> bool:
        """Whether the node appends; all other roles read the log."""
        return self in _LEADING

    @property
    def queues_writes(self) -> bool:
        """Whether clients' writes are queued; other roles refuse them."""
        return self in _QUEUEING


_LEADING = frozenset((Role.LEADER, Role.DRAINING, Role.TRANSFERRING))
_READING = (*(role for role in Role if role not in _LEADING), Role.LEADER)  # its own claim is read together with others
_QUEUEING = _LEADING | {Role.STEPPING_DOWN}


class Event(StrEnum):
    CLAIM_SENT = "a claim in its own name is sent"
    CLAIM_OUTDATED = "the leader appended after the offset that the claim had observed"
    OWN_CLAIM_ACCEPTED = "a claim that names this node is accepted"
    OTHER_CLAIM_ACCEPTED = "a claim that names another node is accepted"
    APPEND_OUTCOME_UNKNOWN = "the outcome of an append is unknown"
    APPEND_MISPLACED = "an append follows records of others"
    APPEND_NOT_APPLIED = "an append is committed, but the disk is full"
    CHECK_PASSED = "it has read up to its last append, and no other node's claim precedes it"
    TRANSFER_REQUESTED = "leadership is to be transferred to another node"
    TRANSFER_TIMED_OUT = "the acks for what is in the log did not arrive in time"
    TRANSFER_CLAIM_SENT = "all acks are in, and a claim in the successor's name is sent"
    TRANSFER_REFUSED = "the log refused the claim in the successor's name"
    TRANSFER_COMMITTED = "the claim in the successor's name is in the log"
    SUCCESSOR_CLAIM_ACCEPTED = "the claim in the successor's name is read"
    SUCCESSOR_STARTED = "a record of the successor is read"


class ImpossibleEvent(ReplicatorError):
    """A defect of replicator itself."""


TRANSITIONS: Mapping[tuple[Role, Event], Role] = MappingProxyType(
    {
        (Role.FOLLOWER, Event.CLAIM_SENT): Role.CANDIDATE,
        (Role.FOLLOWER, Event.OWN_CLAIM_ACCEPTED): Role.LEADER,  # transferred, or forced
        (Role.CANDIDATE, Event.CLAIM_SENT): Role.CANDIDATE,
        (Role.CANDIDATE, Event.CLAIM_OUTDATED): Role.FOLLOWER,
        (Role.CANDIDATE, Event.OWN_CLAIM_ACCEPTED): Role.LEADER,
        (Role.LEADER, Event.APPEND_OUTCOME_UNKNOWN): Role.RESOLVING,
        (Role.LEADER, Event.APPEND_MISPLACED): Role.CHECKING,
        (Role.LEADER, Event.APPEND_NOT_APPLIED): Role.CHECKING,
        (Role.LEADER, Event.TRANSFER_REQUESTED): Role.DRAINING,
        (Role.DRAINING, Event.TRANSFER_TIMED_OUT): Role.LEADER,
        (Role.DRAINING, Event.TRANSFER_CLAIM_SENT): Role.TRANSFERRING,
        (Role.DRAINING, Event.APPEND_OUTCOME_UNKNOWN): Role.RESOLVING,
        (Role.DRAINING, Event.APPEND_MISPLACED): Role.CHECKING,
        (Role.DRAINING, Event.APPEND_NOT_APPLIED): Role.CHECKING,
        (Role.TRANSFERRING, Event.TRANSFER_REFUSED): Role.LEADER,
        (Role.TRANSFERRING, Event.TRANSFER_COMMITTED): Role.STEPPING_DOWN,
        (Role.TRANSFERRING, Event.APPEND_OUTCOME_UNKNOWN): Role.RESOLVING,
        (Role.TRANSFERRING, Event.APPEND_MISPLACED): Role.CHECKING,
        (Role.STEPPING_DOWN, Event.SUCCESSOR_CLAIM_ACCEPTED): Role.STEPPING_DOWN,
        (Role.STEPPING_DOWN, Event.SUCCESSOR_STARTED): Role.FOLLOWER,
        (Role.STEPPING_DOWN, Event.CLAIM_SENT): Role.CANDIDATE,  # the successor does not start
        (Role.STEPPING_DOWN, Event.OWN_CLAIM_ACCEPTED): Role.LEADER,
        (Role.CHECKING, Event.CHECK_PASSED): Role.LEADER,
        (Role.RESOLVING, Event.CLAIM_SENT): Role.RESOLVING,
        (Role.RESOLVING, Event.OWN_CLAIM_ACCEPTED): Role.LEADER,
        **{(role, Event.OTHER_CLAIM_ACCEPTED): Role.FOLLOWER for role in _READING},
    }
)


class Settlement(NamedTuple):
    """The effect of an event on the writes in flight. The other writes are kept, in their order."""

    void_sent: bool = False  # writes of an earlier epoch that were not read are void, and so are all writes after them
    fail_unacknowledged: bool = False  # writes in the log that wait for acks end as UNKNOWN: another node gets the acks
    refuse_queued: bool = False  # writes that were not sent are refused


KEEP = Settlement()

SETTLEMENTS: Mapping[Event, Settlement] = MappingProxyType(
    {
        Event.CLAIM_OUTDATED: Settlement(refuse_queued=True),
        Event.OWN_CLAIM_ACCEPTED: Settlement(void_sent=True),
        Event.OTHER_CLAIM_ACCEPTED: Settlement(void_sent=True, fail_unacknowledged=True, refuse_queued=True),
        Event.SUCCESSOR_STARTED: Settlement(refuse_queued=True),
    }
)
"""Any other event keeps all writes."""


def advance(role: Role, event: Event) -> Role:
    """Raises `ImpossibleEvent`."""
    try:
        return TRANSITIONS[role, event]
    except KeyError:
        known = ", ".join(it.name for was, it in TRANSITIONS if was is role)
        raise ImpossibleEvent(
            f"a node in role {role} cannot handle {event.name} ({event}), only {known}. This is a defect of "
            "replicator: restart the node, and report it with the output of the node"
        ) from None
