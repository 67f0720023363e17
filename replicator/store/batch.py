"""Applies the bodies of accepted records in one LMDB transaction."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import xxhash

from replicator.errors import Diverged
from replicator.position import Seq
from replicator.protocol.log_state import LogState
from replicator.protocol.suspension import Suspended, SuspendedKeys
from replicator.protocol.timing import LoggedTiming
from replicator.records.types import (
    Change,
    Checkpoint,
    Claim,
    Membership,
    Release,
    Single,
    Suspend,
    Timing,
    Write,
    WriteMode,
)
from replicator.store.digest import DIGEST_MASK, entry_digest
from replicator.store.keys import encode_key
from replicator.store.meta import Meta
from replicator.store.values import NO_EXPIRY_TAG, expiry_of


class RecordBatch:
    """Changes `entries` and `expiry` within the transaction `txn`. The caller commits it, or aborts it on an error."""

    def __init__(
        self,
        txn: Any,
        entries: Any,
        expiry: Any,
        before: Meta,
        suspended: Suspended,
        timing: LoggedTiming,
        audited: bytes = b"",
    ) -> None:
        """`audited`: an audit has read the entries up to this key (`audit.StoreAudit`)."""
        self.suspended = SuspendedKeys(suspended)
        self.timing = timing
        self._txn = txn
        self._entries = entries
        self._expiry = expiry
        self._before = before
        self._digest = before.digest
        self._count = before.entries
        self._rows = before.rows.copy()
        self._membership = before.membership
        self.changed_expiry = False
        self.audited_digest = 0  # what the batch adds to the sums of the audit
        self.audited_entries = 0
        self._audited = audited

    def apply(self, bodies: Sequence[Single]) -> None:
        """Raises `Diverged`."""
        suspends = self._membership.policy.write is WriteMode.INVALIDATE or bool(self.suspended.keys)
        for seq, body in enumerate(bodies, self._before.state.seq + 1):
            if type(body) is Write:
                for change in body.changes:
                    self._change(seq, change)
                if suspends:
                    self._suspend_written(Seq(seq), body)
            elif type(body) is Membership:
                self._membership = body
                suspends = suspends or body.policy.write is WriteMode.INVALIDATE
            elif type(body) is Checkpoint:
                self._compare(seq, body)
            elif type(body) is Suspend:
                self.suspended.announce(Seq(seq), body.keys)
                suspends = True
            elif type(body) is Release:
                self.suspended.release(body.up_to_seq)
            elif type(body) is Claim:
                self.suspended.claim()
            elif type(body) is Timing:
                self.timing = self.timing.after(body)

    def meta(self, state: LogState) -> Meta:
        """The metadata of the store after this batch."""
        digest = self._digest & DIGEST_MASK
        return self._before.after(state, digest, self._count, self._rows, self._membership)

    def _suspend_written(self, seq: Seq, body: Write) -> None:
        for table, row, field, _, _ in body.changes:
            self.suspended.write(seq, encode_key(table, row, field), self._membership.policy.write)

    def _change(self, seq: int, change: Change) -> None:
        table, row, field, old, new = change
        key = encode_key(table, row, field)
        txn, entries = self._txn, self._entries
        if new is None:
            found = txn.pop(key, db=entries)
        elif old is None:
            found = None if txn.put(key, new, overwrite=False, db=entries) else txn.get(key, db=entries)
        else:
            found = txn.replace(key, new, db=entries)
        if found != old:
            raise Diverged(
                f"record {seq} changes {key!r} from {_short(old)}, but this store has {_short(found)}: one of them is "
                "damaged",
                seq,
            )
        digest = 0
        if old is not None:
            digest -= entry_digest(key, old)
        if new is not None:
            digest += entry_digest(key, new)
        self._digest += digest
        step = (old is None) - (new is None)
        if key <= self._audited:
            self.audited_digest += digest
            self.audited_entries += step
        if step:
            self._count += step
            if not field:
                self._rows[table] = self._rows.get(table, 0) + step
        if (old is None or old[0] >= NO_EXPIRY_TAG) and (new is None or new[0] >= NO_EXPIRY_TAG):
            return  # the common case, without the two calls below
        before, after = expiry_of(old), expiry_of(new)
        if before != after:
            self.changed_expiry = True
            if before is not None:
                txn.delete(_expiry_key(before, key), db=self._expiry)
            if after is not None:
                txn.put(_expiry_key(after, key), key, db=self._expiry)

    def _compare(self, seq: int, checkpoint: Checkpoint) -> None:
        digest = self._digest & DIGEST_MASK
        if (digest, self._count) != (checkpoint.digest, checkpoint.entries):
            raise Diverged(
                f"the checkpoint in record {seq} has digest {checkpoint.digest:032x} over {checkpoint.entries} "
                f"entries, but this store has {digest:032x} over {self._count}",
                seq,
            )


def _expiry_key(when_ms: int, key: bytes) -> bytes:
    """The key in `expiry` for a store key of any length. The hash separates keys that expire in the same ms."""
    return when_ms.to_bytes(8, "big") + bytes(xxhash.xxh3_64_digest(key))


def _short(value: bytes | None) -> str:
    return "no value" if value is None else repr(value[:40])
