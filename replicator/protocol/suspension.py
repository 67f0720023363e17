"""Which keys no linearizable read is answered for at a replica, because another one may hold another value of them.

    record          mode in force   of its keys                      besides
    Suspend{keys}   any             announced, as often as named     nothing else is announced any more: it is written,
                                                                     or was given up
    Write           invalidate      written; one announced has come
    Write           other modes     one announced has come
    Release{seq}    any                                              nothing up to seq is suspended as written
    Claim           any                                              nothing is announced: it will not be written

The suspended keys follow from the log alone, so they are part of a store's state, and a node that restarts still
knows them. Announced keys still hold the old value here; written ones hold the new one, which others may not have.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from replicator.position import Seq
from replicator.records.types import WriteMode


class Suspension(NamedTuple):
    """Of one key. Not all of it is zero."""

    written: Seq = Seq(0)  # the last write that others may lack; 0: none
    announced: Seq = Seq(0)  # the Suspend that announced it
    awaited: int = 0  # announced writes of it that have not come


NONE = Suspension()
Suspended = Mapping[bytes, Suspension]
"""By store key."""


def blocks(suspension: Suspension, since: Seq) -> bool:
    """Whether a read must wait that was asked for when the store stood at `since`.

    What was announced later than the read was asked for cannot have been seen by anybody before that.
    """
    return suspension.written > 0 or (suspension.awaited > 0 and suspension.announced <= since)


class Suspending:
    """The suspended keys, while records are applied one after the other. Does not change what it was given."""

    def __init__(self, before: Suspended) -> None:
        self.keys = before
        self._copied: dict[bytes, Suspension] | None = None

    @property
    def changed(self) -> bool:
        return self._copied is not None

    def announce(self, seq: Seq, keys: Iterable[bytes]) -> None:
        """`keys`: each as often as it will be written."""
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
