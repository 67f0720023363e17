"""The changes of transactions that are in the log as their commands, from the store of this publisher's node."""

from __future__ import annotations

import time
from collections.abc import Callable

from replicator.errors import BrokerUnavailable, LogDamage
from replicator.intervals import EFFECT_POLL_S, EFFECT_WAIT_S
from replicator.position import Seq
from replicator.records.types import Command, Record, Write
from replicator.store.effects import Effects
from replicator.store.rows import command_error

ChangesOf = Callable[[Record], Write]
"""Of an accepted record whose body is a `Command`. Raises `ReplicatorError`."""


def unknown_changes(record: Record) -> Write:
    """Of a reader that has no store. Raises `ConfigError`."""
    raise command_error()


class CommandChanges:
    """Implements `ChangesOf`."""

    def __init__(
        self,
        effects: Effects,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._effects = effects
        self._clock = clock
        self._sleep = sleep

    def __call__(self, record: Record) -> Write:
        """Wait until the node has applied it. It blocks.

        Raises `BrokerUnavailable` (the node applies nothing for some time), `LogTrimmed`, `LogDamage`, `StoreError`.
        """
        header, body = record.header, record.body
        assert type(body) is Command
        until_s = self._clock() + EFFECT_WAIT_S
        while (found := self._effects.find(header.timeline, Seq(header.seq))) is None:
            if self._clock() >= until_s:
                raise BrokerUnavailable(
                    f"this node has not applied record {header.seq}, a command, for {EFFECT_WAIT_S:.0f} s: its changes "
                    "are published when it has, or by another node"
                )
            self._sleep(EFFECT_POLL_S)
        if len(found.changes) != body.changes:
            raise LogDamage(
                f"record {header.seq} is a command with {body.changes} changes, but the store of this node keeps "
                f"{len(found.changes)}: it is of another log"
            )
        return found
