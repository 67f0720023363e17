"""The end of a timeline, and the beginning of the next: how a cluster that was restored continues in another log.

A log is never rewritten. The cluster that is restored to an earlier point gets another name, so another log, and its
first record is a claim that only a store with the restored content accepts:

    first record   a forced claim whose seq and chain are those of the restored content, so of all accepted records
                   before it, and whose timeline is a new one. A store with any other content, an empty one too,
                   finds an epoch, a seq or a chain that does not follow, and stops
    second         a checkpoint: its digest is that of the restored content

The former log ends with a forced claim in the name of no node (`restored:` and the name of the cluster that continues).
No record after it is accepted, and each node that reads it stops. So what was confirmed there before is in that log,
and nothing is confirmed there any more.
"""

from __future__ import annotations

from replicator.errors import LogEnded
from replicator.position import BEFORE_LOG, Author, Epoch, NodeId
from replicator.protocol.log_state import LogState
from replicator.records.types import Claim, Reason

CONTINUED_AS = "restored:"
"""No id of a node has a colon."""
RESTORE = NodeId("restore:")
"""The author of the first records of a restored cluster; it is no node, so an election follows."""


def content_of(state: LogState) -> LogState:
    """The state with which a restored cluster begins, before the first record of its log: what `state` contains."""
    return LogState(epoch=state.epoch, seq=state.seq, chain=state.chain)


def first_claim(content: LogState, author: Author) -> Claim:
    """Of the log of a restored cluster, to be written by `author`, at the offset 0."""
    return Claim(author, Epoch(content.epoch + 1), BEFORE_LOG, Reason.FORCE)


def last_claim(state: LogState, cluster: str) -> Claim:
    """Ends the log that was read up to `state`; `cluster` continues it."""
    return Claim(Author(NodeId(CONTINUED_AS + cluster), 0), Epoch(state.epoch + 1), state.offset, Reason.FORCE)


def continued_as(state: LogState) -> str | None:
    """The cluster that continues this log, if it has ended."""
    return None if state.leader is None else continued_by(state.leader)


def continued_by(leader: Author) -> str | None:
    """The cluster that continues a log that a claim for this leader has ended; None: it is a node."""
    return leader.node.removeprefix(CONTINUED_AS) if leader.node.startswith(CONTINUED_AS) else None


def check_not_ended(state: LogState) -> None:
    """Raises `LogEnded`."""
    name = continued_as(state)
    if name is not None:
        raise LogEnded(
            f"this cluster was restored to an earlier point, as cluster {name}, and its log ended at offset "
            f"{state.leader_offset}. Stop this node; to run it in cluster {name}, start it from a snapshot of that one "
            "(docs/recovery.md)"
        )


def continues_a_restore(state: LogState, claim: Claim) -> bool:
    """Whether a claim that an empty store reads first is that of a restored cluster: others begin the first epoch."""
    return not state.timeline and state.epoch == 0 and claim.epoch > 1
