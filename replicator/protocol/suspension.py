"""Decides which keys are suspended.

A replica blocks linearizable reads of a suspended key, because another replica may hold another value of it.

    record          write mode     effect on its keys                      effect on all keys
    Suspend{keys}   any            announced, as often as each is listed   earlier announcements end: their keys were
                                                                           written, or never will be
    Write           invalidate     written; one announced write arrived
    Write           other modes    one announced write arrived
    Release{seq}    any                                                    suspensions by writes up to seq end
    Claim           any                                                    announcements end: their keys will never be
                                                                           written

The suspended keys follow from the log alone. They are part of the state of a store, so they survive a restart. An
announced key still has its old value here. A written key has its new value here, which other replicas may lack.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from replicator.position import Seq
from replicator.records.types import WriteMode


class Suspension(NamedTuple):
    """The suspension of one key. At least one field is not zero, except in `NONE`."""

    written: Seq = Seq(0)  # of the last write that other replicas may lack; 0: no such write
    announced: Seq = Seq(0)  # of the Suspend that announced the key; 0 if and only if `awaited` is 0
    awaited: int = 0  # number of announced writes of the key that have not arrived


NONE = Suspension()
Suspended = Mapping[bytes, Suspension]
"""By store key."""


def blocks(suspension: Suspension, since: Seq) -> bool:
    """Whether a read must wait that started when the store was at seq `since`.

    A write that was announced after the read started cannot have been seen by any client before it.
    """
    return suspension.written > 0 or (suspension.awaited > 0 and suspension.announced <= since)


def is_inherited(suspension: Suspension, term_start: Seq) -> bool:
    """Whether a leader whose term began at seq `term_start` inherited the key: replicas may lack what it has there."""
    return 0 < suspension.written <= term_start


class SuspendedKeys:
    """The suspended keys while records are applied one by one. Copies the mapping `before` on the first change."""

    def __init__(self, before: Suspended) -> None:
        self.keys = before
        self._copied: dict[bytes, Suspension] | None = None

    @property
    def changed(self) -> bool:
        return self._copied is not None

    def announce(self, seq: Seq, keys: Iterable[bytes]) -> None:
        """`keys` lists each key as often as it will be written."""
        self.claim()
        for key in keys:
            known = self.keys.get(key, NONE)
            self._set(key, known._replace(announced=seq, awaited=known.awaited + 1))

    def write(self, seq: Seq, key: bytes, mode: WriteMode) -> None:
        known = self.keys.get(key, NONE)
        written = seq if mode is WriteMode.INVALIDATE else known.written
        if known.awaited > 1:
            self._set(key, Suspension(written, known.announced, known.awaited - 1))
        elif known.awaited or written != known.written:
            self._set(key, Suspension(written))

    def release(self, up_to: Seq) -> None:
        for key, it in list(self.keys.items()):
            if 0 < it.written <= up_to:
                self._set(key, it._replace(written=Seq(0)))

    def claim(self) -> None:
        for key, it in list(self.keys.items()):
            if it.awaited:
                self._set(key, Suspension(it.written))

    def _set(self, key: bytes, suspension: Suspension) -> None:
        if self._copied is None:
            self.keys = self._copied = dict(self.keys)
        if suspension == NONE:
            self._copied.pop(key, None)
        else:
            self._copied[key] = suspension
