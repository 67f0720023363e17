"""What a reader of the log has come to, and why it skips a record."""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple

from replicator.position import BEFORE_LOG, Author, Epoch, Offset, Seq
from replicator.records.codec import GENESIS


class LogState(NamedTuple):
    """All that the rule needs to know of the log up to `offset`."""

    timeline: bytes = b""  # 16 bytes once a claim has been accepted
    epoch: Epoch = Epoch(0)
    leader: Author | None = None
    seq: Seq = Seq(0)
    chain: bytes = GENESIS
    offset: Offset = BEFORE_LOG  # of the last record read, accepted or void
    leader_offset: Offset = BEFORE_LOG  # of the current leader's last accepted record, its claim included


class Void(StrEnum):
    OTHER_EPOCH = "of another epoch"
    NOT_THE_LEADER = "not by the leader"
    REPEATED = "its seq was used before"
    OUTRUN = "the leader wrote after what the candidate had observed"
