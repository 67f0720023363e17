"""The procedures that were called: a row of the table `procedures` for each.

    row          value
    its name     tag h: its hash, 32 bytes

The first call of a procedure adds the row, in its own transaction. So all nodes know which code a name stands for.
"""

from __future__ import annotations

from replicator.store.keys import decode_key, encode_key, table_range
from replicator.store.view import Entries, Transaction

PROCEDURES_TABLE = "procedures"
_HASH = b"h"


def registered(entries: Entries, name: str) -> str | None:
    """The hash of a procedure; None if it was never called."""
    stored = entries.get(encode_key(PROCEDURES_TABLE, name.encode(), b""))
    return None if stored is None else stored[1:].hex()


def register(transaction: Transaction, name: str, hash: str) -> None:
    transaction.put(PROCEDURES_TABLE, name.encode(), b"", _HASH + bytes.fromhex(hash))


def all_registered(entries: Entries) -> dict[str, str]:
    """Hashes by name."""
    found = entries.scan(*table_range(PROCEDURES_TABLE))
    return {decode_key(key)[1].decode(): stored[1:].hex() for key, stored in found}
