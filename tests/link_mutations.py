"""Rules of the link between nodes, broken on purpose as in `simulation_mutations`."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from math import inf
from unittest.mock import patch

from replicator.node.appending import AppendOutcome
from replicator.node.backlog import Backlog, FollowerLink, Position, RecordGroup
from replicator.node.followed_log import FollowedLog
from replicator.node.leader import Leader
from replicator.position import Offset, Seq
from replicator.protocol.log_state import LogState
from replicator.records.types import Record


def sent_records_are_taken_as_they_come() -> AbstractContextManager[object]:
    """A follower applies what a leader sends, whether it follows what it has read or not."""

    def after_sent(state: LogState, offset: Offset, record: Record) -> LogState:
        header = record.header
        return state._replace(seq=header.seq, chain=header.chain, offset=offset, leader_offset=offset)

    return patch("replicator.node.replica.after_sent", after_sent)


def records_are_sent_before_they_are_committed() -> AbstractContextManager[object]:
    async def append(self: Leader, payloads: Sequence[bytes]) -> AppendOutcome:
        base, seq = Offset(self._state.offset + 1), Seq(self._state.seq + 1)
        chains = [bytes(8)] * len(payloads)
        for link in list(self._backlog._links):
            link.send(RecordGroup(base, seq, payloads, chains, 0))
        return await genuine(self, payloads)

    genuine = Leader._append
    return patch.object(Leader, "_append", append)


def followers_wait_for_their_leader_for_ever() -> AbstractContextManager[object]:
    """A follower reads the log again only if the link is lost."""
    return patch("replicator.node.followed_log.link_silence_ms", lambda timing: inf)


def stores_are_not_compared_after_a_link() -> AbstractContextManager[object]:
    """A follower reads the log on where the leader has ceased to send."""

    def leave_stream(self: FollowedLog, why: str) -> None:
        self.close()
        self._reader._go_on()

    return patch.object(FollowedLog, "leave_stream", leave_stream)


def leaders_send_to_followers_with_another_past() -> AbstractContextManager[object]:
    """A follower may have read records that Kafka has lost: its acks are of these."""

    def follow(self: Backlog, position: Position, link: FollowerLink) -> Sequence[RecordGroup]:
        chain = self._chain_at(position.seq)
        return genuine(self, position if chain is None else position._replace(chain=chain), link)

    genuine = Backlog.follow
    return patch.object(Backlog, "follow", follow)
