"""Compares the log with the state of a store that has read it before.

Kafka may lose the end of a log, when a single broker's machine crashes or an unclean election picks a broker that was
behind. If the log has grown past the old end since, no offset is missing, and only the records differ.
"""

from __future__ import annotations

from replicator.errors import LogTruncated
from replicator.position import Author, Epoch, Offset
from replicator.protocol.acceptance import judge
from replicator.protocol.claims import CLAIMS_OVER_UNREAD
from replicator.protocol.log_state import LogState
from replicator.records.chain import link
from replicator.records.types import Claim, Record


def verify(state: LogState, offset: Offset, record: Record | None) -> None:
    """Raises `LogTruncated` if an entry that was read before, at an offset up to `state.offset`, is another one now.

    The entry at `state.leader_offset` is the last one that was accepted, and its chain covers all before it, which are
    not compared. The entries after it were void, and must be so again. `record`: None if the entry is not one.
    """
    if offset < state.leader_offset:
        return
    if offset == state.leader_offset:
        same = record is not None and _is_last_accepted(state, record)
    elif record is not None:
        same = judge(state._replace(offset=Offset(offset - 1)), offset, record)[1] is not None
    else:
        same = True
    if not same:
        raise past_differs(offset)


def verify_appended(state: LogState, last: Offset) -> None:
    """For a leader that has read up to `last`, where its append ended. Raises `LogTruncated` if it is not there.

    It is accepted, unless another node's claim precedes it: then this node would not be leader any more.
    """
    if state.leader_offset < last:
        raise past_differs(last)


def check_appended(state: LogState, base: Offset) -> None:
    """Raises `LogTruncated` if an append by a node that has read up to `state` was given an offset that it has read."""
    if base <= state.offset:
        raise truncated(state, base)


def check_term(state: LogState, epoch: Epoch, leader: Author) -> None:
    """Raises `LogTruncated` if a node has read other claims up to `state` than the log, which has this one by then."""
    if state.epoch < epoch or (state.epoch == epoch and state.leader != leader):
        raise LogTruncated(
            f"{leader} leads epoch {epoch}, and this node has read the log up to offset {state.offset}, but not the "
            "claim of that epoch: Kafka has lost the end of the log, and others have appended since. Restore the data "
            "of the brokers, or start this node from a snapshot of an earlier offset"
        )


def is_truncated(state: LogState, end: Offset) -> bool:
    """Whether a log that ends before `end` lacks the last record that was accepted."""
    return end <= state.leader_offset


def truncated(state: LogState, end: Offset) -> LogTruncated:
    """The log ends, or ended, before `end`, and lacks what was read."""
    return LogTruncated(
        f"this node has read the log up to offset {state.offset}, but it ended at {end}: Kafka has truncated it. "
        "Restore the data of the brokers, or restore the cluster from a snapshot"
    )


def past_differs(offset: Offset) -> LogTruncated:
    return LogTruncated(
        f"the log holds another record at offset {offset} than the one that this node has read or written there: Kafka "
        "has lost the end of the log, and others have appended since. Restore the data of the brokers, or start this "
        "node from a snapshot of an earlier offset"
    )


def _is_last_accepted(state: LogState, record: Record) -> bool:
    header, body, encoded_body = record
    if type(body) is not Claim:
        return (header.epoch, header.author, record.last_seq, header.chain) == (
            state.epoch,
            state.leader,
            state.seq,
            state.chain,
        )
    if (body.epoch, body.leader) != (state.epoch, state.leader):
        return False
    if header.seq + 1 == state.seq:
        return link(header.chain, encoded_body) == state.chain
    return header.seq + 1 < state.seq and body.reason in CLAIMS_OVER_UNREAD
