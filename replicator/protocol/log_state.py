"""The state that a reader of the log derives from the accepted records, and the reasons why a record is void."""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple

from replicator.position import BEFORE_LOG, Author, Epoch, Offset, Seq
from replicator.records.chain import GENESIS


class LogState(NamedTuple):
    """Everything that `protocol.acceptance` needs to know of the log up to `offset`.

    Two readers that have read up to the same offset have the same state.
    """

    timeline: bytes = b""  # empty before the first accepted claim, 16 bytes after it; never changes again
    epoch: Epoch = Epoch(0)  # number of accepted claims
    leader: Author | None = None  # named by the last accepted claim; None before the first
    seq: Seq = Seq(0)  # number of accepted records, claims included; each transaction of a group counts
    chain: bytes = GENESIS  # `records.chain.link` over the bodies of all accepted records, in order
    offset: Offset = BEFORE_LOG  # of the last entry read, accepted or void; never decreases
    leader_offset: Offset = BEFORE_LOG  # of the last accepted record, the claim of the leader included; <= offset


class Void(StrEnum):
    OTHER_EPOCH = "it is of another epoch"
    NOT_THE_LEADER = "its author is not the leader"
    REPEATED = "its seq was used before"
    OUTDATED = "the leader wrote after the observed offset"
    OTHER_PAST = "its author had read other records than the log holds"
    ENDED = "the log has ended, and another cluster continues it"
