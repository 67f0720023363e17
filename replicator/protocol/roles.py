"""What a node is to the others, and what takes it from one role to the next.

    following      reads the log
    candidate      follows, and has sent a claim: whether it counts stands in the log
    leading        writes, serves, reads nothing
    handing over   leads, but serves no longer: the lead is being given to another node
    checking       led; its last append stands elsewhere than expected, or could not be applied: reads up to it
    resolving      led; its last append has no answer: claims again in its own name and reads up to that claim

A node leads because a claim that names it was accepted, and for no other reason; `checking` ends without a new claim,
if nobody else's came before the append. An accepted claim that names another node ends every role. Whatever is not
in `TRANSITIONS` cannot happen: a node whose append is in doubt, for one, never leads on without a claim.

A process starts as `following`, whatever it was before: its incarnation is new.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType

from replicator.errors import ReplicatorError


class Role(StrEnum):
    FOLLOWING = "following"
    CANDIDATE = "candidate"
    LEADING = "leading"
    HANDING_OVER = "handing over"
    CHECKING = "checking"
    RESOLVING = "resolving"


class Event(StrEnum):
    CLAIM_SENT = "a claim in its own name is sent"
    OUTRUN = "the leader wrote after what the claim had observed"
    OWN_CLAIM_ACCEPTED = "a claim that names this node is accepted"
    OTHER_CLAIM_ACCEPTED = "a claim that names another node is accepted"
    APPEND_OUTCOME_UNKNOWN = "an append has no answer"
    MISPLACED = "an append stands behind what others wrote"
    NOT_APPLIED = "an append is committed, but the disk is full"
    STILL_LEADER = "read up to the last append, and nobody else's claim came first"
    HANDOVER_STARTED = "it stops serving to give the lead away"
    HANDOVER_REFUSED = "the claim in the other's name is not in the log, nor will be"


class ImpossibleEvent(ReplicatorError):
    """A mistake in replicator itself."""


TRANSITIONS: Mapping[tuple[Role, Event], Role] = MappingProxyType(
    {
        (Role.FOLLOWING, Event.CLAIM_SENT): Role.CANDIDATE,
        (Role.FOLLOWING, Event.OWN_CLAIM_ACCEPTED): Role.LEADING,  # handed over, or forced
        (Role.CANDIDATE, Event.CLAIM_SENT): Role.CANDIDATE,
        (Role.CANDIDATE, Event.OUTRUN): Role.FOLLOWING,
        (Role.CANDIDATE, Event.OWN_CLAIM_ACCEPTED): Role.LEADING,
        (Role.LEADING, Event.APPEND_OUTCOME_UNKNOWN): Role.RESOLVING,
        (Role.LEADING, Event.MISPLACED): Role.CHECKING,
        (Role.LEADING, Event.NOT_APPLIED): Role.CHECKING,
        (Role.LEADING, Event.HANDOVER_STARTED): Role.HANDING_OVER,
        (Role.HANDING_OVER, Event.HANDOVER_REFUSED): Role.LEADING,
        (Role.HANDING_OVER, Event.APPEND_OUTCOME_UNKNOWN): Role.RESOLVING,
        (Role.HANDING_OVER, Event.MISPLACED): Role.CHECKING,
        (Role.CHECKING, Event.STILL_LEADER): Role.LEADING,
        (Role.RESOLVING, Event.CLAIM_SENT): Role.RESOLVING,
        (Role.RESOLVING, Event.OWN_CLAIM_ACCEPTED): Role.LEADING,
        **{(role, Event.OTHER_CLAIM_ACCEPTED): Role.FOLLOWING for role in Role},
    }
)


def advance(role: Role, event: Event) -> Role:
    """Raises `ImpossibleEvent`."""
    try:
        return TRANSITIONS[role, event]
    except KeyError:
        known = ", ".join(it.name for was, it in TRANSITIONS if was is role)
        raise ImpossibleEvent(
            f"a node that is {role} met {event.name} ({event}), and can only meet {known}: this is a mistake in "
            "replicator itself. Restart the node, and report it with the node's log"
        ) from None
