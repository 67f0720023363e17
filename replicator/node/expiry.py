"""The leader deletes rows that have expired by its clock. Followers read the deletions in the log, and check no clock.

A row expires as a whole, when the value in its empty field does. It is gone once its deletion is applied, not before
(`leader_reads`). A large row is deleted in parts, the empty field last: until then no write and no read at the leader
can meet it, and it stays expired whatever the clock of a new leader says.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Protocol

from replicator.errors import ReplicatorError
from replicator.intervals import EXPIRY_POLL_MS
from replicator.limits import EXPIRED_ROWS_AT_ONCE
from replicator.node.clock import Clock
from replicator.node.writes import Done
from replicator.position import Offset
from replicator.store.keys import decode_key
from replicator.store.machine import Machine
from replicator.store.values import expiry_of
from replicator.store.view import Transaction

logger = logging.getLogger(__name__)


class Writer(Protocol):
    def begin(self) -> Transaction: ...

    def submit(self, transaction: Transaction, done: Done) -> None: ...


async def delete_expired(writer: Writer, machine: Machine, clock: Clock) -> None:
    """Run until cancelled, while this node is leader."""
    logged = ""
    while True:
        now_ms = clock.wall_us() // 1000
        due_ms = machine.next_expiry_ms()
        if due_ms is None or due_ms > now_ms:
            await clock.sleep(EXPIRY_POLL_MS if due_ms is None else min(EXPIRY_POLL_MS, due_ms - now_ms))
            continue
        try:
            await _delete(writer, machine.expired(now_ms, EXPIRED_ROWS_AT_ONCE), now_ms)
        except ReplicatorError as error:
            if logged != str(error):
                logger.info("expired rows cannot be deleted now: %s", error)
                logged = str(error)
            await clock.sleep(EXPIRY_POLL_MS)


def remove_if_expired(transaction: Transaction, key: bytes, now_ms: int) -> bool:
    """Remove the row whose empty field has this store key, or a part if it is large. Returns whether it had expired."""
    expires_at_ms = expiry_of(transaction.get(key))
    if expires_at_ms is None or expires_at_ms > now_ms:
        return False
    table, row, _ = decode_key(key)
    transaction.remove_part_of_expired(table, row)
    return True


async def _delete(writer: Writer, keys: list[bytes], now_ms: int) -> None:
    """Delete the rows of these keys, one record for each, and wait until all are applied. Raises the first error."""
    last: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    left = len(keys)

    def done(error: ReplicatorError | None, offset: Offset) -> None:
        nonlocal left
        left -= 1
        if last.done():
            return
        if error is not None:
            last.set_exception(error)
        elif left == 0:
            last.set_result(None)

    try:
        for key in keys:
            transaction = writer.begin()
            remove_if_expired(transaction, key, now_ms)
            writer.submit(transaction, done)
        await last
    finally:
        last.cancel()
