"""Executes the commands in the log again: what a replica applies is the changes that they make."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from replicator.errors import Diverged
from replicator.records.types import Change, Command, Single, Write
from replicator.store.keys import encode_key
from replicator.store.view import Entries, Overlay

Execute = Callable[[Command, Entries], Mapping[bytes, Change]]
"""The changes, by store key, that a command makes in a state. Raises `Diverged`, `UpgradeNeeded`."""


def with_changes(bodies: Sequence[Single], state: Entries, execute: Execute) -> Sequence[Single]:
    """Bodies of accepted records, in order after `state`, with the changes of each command in its place.

    The same object if there is no command.
    """
    if not any(type(body) is Command for body in bodies):
        return bodies
    overlay, changed = Overlay(state), list[Single]()
    for body in bodies:
        if type(body) is Write:
            overlay.push({encode_key(it.table, it.row, it.field): it for it in body.changes})
        elif type(body) is Command:
            changes = execute(body, overlay)
            if len(changes) != body.changes:
                raise Diverged(f"a command changes {len(changes)} entries here, but {body.changes} at the leader")
            overlay.push(changes)
            body = Write(tuple(changes.values()))
        changed.append(body)
    return changed
