"""Whether the log gets the changes of a transaction or its commands, and which nodes can execute the commands again.

Both have the same effect on every replica.
"""

from __future__ import annotations

from collections.abc import Mapping

from replicator.records.types import COMMANDS_SINCE, Change, Membership, Replication


def may_log_commands(membership: Membership) -> bool:
    """Whether all members read records of commands."""
    return membership.version >= COMMANDS_SINCE


def logs_command(replication: Replication, command_bytes: int, row_bytes: int) -> bool:
    """`command_bytes`, `row_bytes`: sizes of the record in either form."""
    match replication:
        case Replication.ROW:
            return False
        case Replication.COMMAND:
            return True
        case Replication.MIXED:
            return command_bytes < row_bytes


def missing_engine(required: str, own: Mapping[str, str]) -> tuple[str, str] | None:
    """Name and version of the first engine that a node lacks. None: it executes the commands as the leader did.

    `required`: `Command.engine`; `own`: the versions of the engines of the node, by name. They have to be the same:
    SQLite 3.54, for example, converts numbers to text with more digits than SQLite 3.50.
    """
    for part in filter(None, required.split(",")):
        name, _, version = part.partition(":")
        if own.get(name) != version:
            return name, version
    return None


def in_order(changes: Mapping[bytes, Change]) -> tuple[Change, ...]:
    """The changes of a command by their store keys, which is the same order at each node.

    The order in which they were made is not: a leader may have undone some of them and made them again.
    """
    return tuple([changes[key] for key in sorted(changes)])
