"""Applies the log to a store restored from a snapshot, up to an offset or a time.

The store is then what every replica had at that offset: each record is judged, and each change and each checkpoint is
compared with the store when it is applied.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from datetime import datetime

from replicator.errors import ConfigError, LogTrimmed
from replicator.log.port import Log
from replicator.node.commands import Execute, with_changes
from replicator.position import Offset
from replicator.records.types import Single, singles
from replicator.recovery.accepted_log import Judged, LogBounds, bounds_of, read_accepted
from replicator.steps import finish
from replicator.store.machine import Machine
from replicator.store.snapshot import Manifest

RecoveryTarget = Offset | datetime
"""The last offset to apply; or a time, by the clocks of the leaders: the first record after it ends the recovery."""

OnApplied = Callable[[int, int], None]
"""Called with the number of offsets that were read, and how many there are at most."""


async def roll_forward(
    machine: Machine, log: Log, taken_ms: int, target: RecoveryTarget, execute: Execute, on_applied: OnApplied
) -> int:
    """Returns when the last accepted record was written (us since 1970, by its author's clock).

    `taken_ms`: when the snapshot was taken. Raises `ConfigError` (the target cannot be reached), `LogTrimmed`,
    `LogDamage`, `Diverged`, `StoreFull` and others; the store is then at some offset before the target.
    """
    bounds, first = await bounds_of(log), Offset(machine.state.offset + 1)
    check_reachable(target, first, bounds)
    if not isinstance(target, datetime):
        bounds = bounds._replace(end=Offset(target + 1))
    written_us = 0  # it is not known yet
    async with contextlib.aclosing(read_accepted(log, machine.state, bounds)) as read:
        async for judged in read:
            if isinstance(target, datetime) and not written_us:
                check_not_before(target, judged.compared_us or taken_ms * 1000, first)
            judged, is_complete = cut(judged, target)
            _apply(machine, judged, execute)
            written_us = judged.written_us or written_us or taken_ms * 1000
            on_applied(machine.state.offset + 1 - first, bounds.end - first)
            if is_complete:
                break
    return written_us or taken_ms * 1000


async def check_target(log: Log, manifest: Manifest, target: RecoveryTarget) -> None:
    """Before the snapshot is restored: raises `ConfigError`, `LogTrimmed` and `LogDamage`, as `roll_forward`."""
    bounds, first = await bounds_of(log), Offset(manifest.offset + 1)
    check_reachable(target, first, bounds)
    if isinstance(target, datetime) and manifest.state is not None:
        async with contextlib.aclosing(read_accepted(log, manifest.state, bounds)) as read:
            async for judged in read:
                check_not_before(target, judged.compared_us or manifest.taken_at_ms * 1000, first)
                return


def check_reachable(target: RecoveryTarget, first: Offset, bounds: LogBounds) -> None:
    """Raises `ConfigError`, `LogTrimmed`. `first`: the offset after that of the snapshot."""
    if isinstance(target, datetime):
        if target > datetime.now().astimezone():
            raise ConfigError(f"{target.isoformat(' ', 'seconds')} is in the future: choose a time that has passed")
    elif target < first - 1:
        raise ConfigError(
            f"offset {target} is before the snapshot, which is at offset {first - 1}: choose an older snapshot"
        )
    elif target >= bounds.end:
        raise ConfigError(f"offset {target} is beyond the end of the log, whose last offset is {bounds.end - 1}")
    if first < bounds.start:
        raise LogTrimmed(
            f"the log begins at offset {bounds.start}, because it was trimmed: the records from {first} on, after the "
            "snapshot, were deleted. Choose a newer snapshot"
        )


def check_not_before(target: datetime, known_us: int, first: Offset) -> None:
    """Raises `ConfigError` if the snapshot has a record that was written after the target.

    `known_us`: when its last record was written, at the latest.
    """
    if known_us > target.timestamp() * 1e6:
        raise ConfigError(
            f"the snapshot, at offset {first - 1}, has records that were written after "
            f"{target.isoformat(' ', 'seconds')}: choose an older snapshot"
        )


def cut(judged: Judged, target: RecoveryTarget) -> tuple[Judged, bool]:
    """What comes before the target, and whether the target is reached. A target that is an offset cuts nothing."""
    if not isinstance(target, datetime):
        return judged, False
    target_us = target.timestamp() * 1e6
    for at, accepted in enumerate(judged.accepted):
        if accepted.record.header.timestamp_us > target_us:
            before = judged.accepted[:at]
            state = before[-1].state if before else judged.before
            return judged._replace(state=state, accepted=before), True
    return judged, False


def _apply(machine: Machine, judged: Judged, execute: Execute) -> None:
    if judged.state.offset > machine.state.offset:
        bodies: list[Single] = [body for it in judged.accepted for body in singles(it.record.body)]
        machine.apply(finish(with_changes(bodies, machine.view, execute)), judged.state)
