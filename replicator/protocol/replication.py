"""Whether the log gets the changes of a transaction or its commands. Both have the same effect on every replica."""

from __future__ import annotations

from replicator.records.types import COMMANDS_SINCE, Membership, Replication


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
