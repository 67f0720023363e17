"""Decides how much of the log may be deleted: nothing that somebody still needs."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from replicator.position import Offset


class Need(NamedTuple):
    by: str  # for people: "replica n3", "snapshot …"
    offset: Offset  # of the first entry that it needs; 0: it needs all, or it is not known


def first_need(needs: Iterable[Need]) -> Need:
    """That of the lowest offset: the log may be deleted below it. At least one is given."""
    return min(needs, key=lambda need: need.offset)
