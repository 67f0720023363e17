"""Opens the past: a store restored from a snapshot, with the log applied up to a target, and a server that shows it."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable

from replicator.address import Address
from replicator.errors import ConfigError, LogTrimmed, SnapshotError
from replicator.log.port import Log
from replicator.node.commands import Execute
from replicator.node.log_start import continues_another
from replicator.position import Offset
from replicator.records.types import Change, Write
from replicator.recovery.past_backend import PastBackend, PastState
from replicator.recovery.roll_forward import OnApplied, RecoveryTarget, roll_forward
from replicator.server.redis.descriptors import fit_clients
from replicator.server.redis.server import RedisServer
from replicator.store.keys import decode_key, row_range
from replicator.store.machine import Machine
from replicator.store.snapshot import Manifest

MAX_CLIENTS = 1_000
EXPIRED_AT_ONCE = 1_000


async def bring_to(
    machine: Machine, manifest: Manifest, log: Log, target: RecoveryTarget, execute: Execute, on_applied: OnApplied
) -> PastState:
    """The store of a snapshot, with the log applied up to the target. Raises as `roll_forward`, and `SnapshotError`."""
    if log.identity != manifest.topic_id:
        raise SnapshotError(
            f"snapshot {manifest.name} is of another log (the topic with id {manifest.topic_id}) than the one that "
            f"cluster {manifest.cluster} has now ({log.identity}): it can be used as it is only, without another "
            "offset or time"
        )
    written_us = await roll_forward(machine, log, manifest.taken_at_ms, target, execute, on_applied)
    return past_state(machine, written_us // 1000)


async def replay_to(
    machine: Machine, log: Log, target: RecoveryTarget, execute: Execute, on_applied: OnApplied
) -> PastState:
    """An empty store, with the log applied from its start up to the target.

    Raises as `roll_forward`, and `LogTrimmed` if the log does not have all data.
    """
    if start := await log.start():
        raise LogTrimmed(f"the log begins at offset {start}, because it was trimmed")
    if await continues_another(log):
        raise LogTrimmed("the log begins with the content of another cluster, from which this one was restored")
    written_us = await roll_forward(machine, log, 0, target, execute, on_applied)
    if machine.state.offset < 0:
        raise ConfigError("the log has no record from before that time")
    return past_state(machine, written_us // 1000)


def past_state(machine: Machine, written_ms: int) -> PastState:
    meta = machine.meta
    state = meta.state
    return PastState(
        cluster=meta.cluster,
        topic_id=meta.topic_id,
        timeline=state.timeline.hex(),
        epoch=state.epoch,
        offset=Offset(state.offset),
        seq=state.seq,
        digest=f"{meta.digest:032x}",
        entries=meta.entries,
        written_ms=written_ms,
    )


def remove_expired(machine: Machine, now_ms: int) -> None:
    """Remove the rows that had expired by then. The leader would delete them before it answers a read of them."""
    while keys := machine.expired(now_ms, EXPIRED_AT_ONCE):
        changes: list[Change] = []
        for key in keys:
            table, row, _ = decode_key(key)
            for found, stored in machine.view.scan(*row_range(table, row)):
                changes.append(Change(*decode_key(found), stored, None))
        machine.apply([Write(tuple(changes))], machine.state)


async def serve(machine: Machine, past: PastState, port: int, password: str, on_ready: Callable[[int], None]) -> None:
    """Serve Redis clients on this machine until SIGINT or SIGTERM; `on_ready` gets the port. Raises `ConfigError`."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    server = RedisServer(
        PastBackend(machine, past),
        Address("127.0.0.1", port),
        cluster=past.cluster,
        password=password,
        max_clients=fit_clients(MAX_CLIENTS),
        protected=True,
        option="--port",
    )
    await server.start()
    try:
        on_ready(server.port)
        await stop.wait()
    finally:
        await server.close()
