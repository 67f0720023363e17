"""A write is answered with OK only after the replicas that the policy requires have applied it.

The policy may change while a write waits for acks: then either of them will do.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Iterator, Sequence
from functools import partial

from replicator.position import Author
from replicator.protocol.ack_policy import required
from replicator.protocol.registration import registered
from replicator.records.types import Membership
from replicator.testing.checks.canonical import Canonical
from replicator.testing.history import History, Request
from replicator.testing.observer import Sample


def check(
    history: History, canonical: Canonical, appended_s: Sequence[float], samples: Sequence[Sample], from_s: float
) -> Iterator[str]:
    """`appended_s`: when each entry was appended to the log, by offset.

    `from_s`: no write that was requested earlier is checked. Its policy may be in a membership that Kafka has lost.
    """
    stores: dict[str, list[Sample]] = defaultdict(list)  # by process
    for sample in samples:
        stores[sample.node].append(sample)

    def has_applied(write: Request, replica: Author) -> bool:
        epoch = canonical.states[write.record].state.epoch
        of_replica = stores[str(replica)]
        until = bisect_right(of_replica, write.answered_s, key=lambda sample: sample.at_s)
        state = of_replica[until - 1].state if until else None
        return state is not None and state.epoch >= epoch and state.offset >= write.record

    for write in history.answered():
        record = canonical.writes.get(write.record)
        if write.called_s < from_s or not write.must_write or record is None or record.author != write.node:
            continue  # another leader wrote it, or nothing was written: an earlier attempt with the same id was
        missing: tuple[Author, ...] = ()
        for membership in _in_force(write, canonical, appended_s):
            leader = Author(record.author, registered(membership, record.author))
            missing = required(membership, leader).missing(partial(has_applied, write))
            if not missing:
                break
        if missing:
            yield f"answered without the acks of {', '.join(map(str, missing))}: {write}"


def _in_force(write: Request, canonical: Canonical, appended_s: Sequence[float]) -> list[Membership]:
    """The membership when the write was appended, and those since, up to the answer."""
    memberships = canonical.memberships
    first = bisect_left(memberships, write.record, key=lambda it: it[0]) - 1
    return [it for offset, it in memberships[max(first, 0) :] if appended_s[offset] <= write.answered_s]
