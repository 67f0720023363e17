"""Which writes of one append share a record."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import NamedTuple

from replicator.limits import RECORD_CHANGES, SLICE_BYTES
from replicator.node.writes import PendingWrite
from replicator.records.fast import encode_group
from replicator.records.types import GROUPS_SINCE, Membership, Write


class RecordOf(NamedTuple):
    version: int
    encoded: bytes  # the body
    writes: Sequence[PendingWrite]  # at least one


def in_records(pending: Sequence[PendingWrite], version: int) -> Iterator[RecordOf]:
    """All of `pending` in order: transactions that follow each other are one record, every other write is its own.

    `version`: of records, which all members read.
    """
    if version < GROUPS_SINCE:
        yield from (_alone(it, version) for it in pending)
        return
    for is_transaction, together in groupby(pending, lambda it: type(it.body) is Write and not it.is_command):
        for writes in _parts(list(together)) if is_transaction else ([it] for it in together):
            if len(writes) > 1:
                yield RecordOf(version, encode_group([it.encoded for it in writes]), writes)
            else:
                yield _alone(writes[0], version)


def _parts(writes: Sequence[PendingWrite]) -> Iterator[list[PendingWrite]]:
    """As many writes as one record may hold, at least one."""
    part: list[PendingWrite] = []
    size = changes = 0
    for pending in writes:
        size += len(pending.encoded)
        changes += len(pending.changes)
        if part and (size > SLICE_BYTES or changes > RECORD_CHANGES):
            yield part
            part, size, changes = [], len(pending.encoded), len(pending.changes)
        part.append(pending)
    yield part


def _alone(pending: PendingWrite, version: int) -> RecordOf:
    body = pending.body
    return RecordOf(body.version if type(body) is Membership else version, pending.encoded, (pending,))
