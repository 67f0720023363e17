"""Executes the commands in the log again: what a replica applies is the changes that they make."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from replicator.errors import Diverged
from replicator.protocol.replication import in_order
from replicator.records.types import Change, Command, Single, Write
from replicator.steps import Steps
from replicator.store.keys import encode_key
from replicator.store.view import Entries, Overlay, SnapshotEnded, View

Execute = Callable[[Command, Entries], Steps[Mapping[bytes, Change]]]
"""The changes, by store key, that a command makes in a state, which stays as it is.

Raises `Diverged`, `UpgradeNeeded`.
"""


def with_changes(bodies: Sequence[Single], view: View, execute: Execute) -> Steps[Sequence[Single]]:
    """Bodies of accepted records, in order after the state of `view`, with the changes of each command in its place.

    The same object if there is no command. Nothing may be applied meanwhile.
    """
    if not any(type(body) is Command for body in bodies):
        return bodies
    while True:
        try:
            with view.snapshot() as state:
                return (yield from _executed(bodies, state, execute))
        except SnapshotEnded:  # the store has grown between two steps
            pass


def _executed(bodies: Sequence[Single], state: Entries, execute: Execute) -> Steps[Sequence[Single]]:
    overlay, changed = Overlay(state), list[Single]()
    for body in bodies:
        if type(body) is Write:
            overlay.push({encode_key(it.table, it.row, it.field): it for it in body.changes})
        elif type(body) is Command:
            changes = yield from execute(body, overlay)
            if len(changes) != body.changes:
                raise Diverged(f"a command changes {len(changes)} entries here, but {body.changes} at the leader")
            overlay.push(changes)
            body = Write(in_order(changes))
        changed.append(body)
    return changed
