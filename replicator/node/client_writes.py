"""Accepts clients' writes: checks whether this node takes writes now, and whether a write fits into one record."""

from __future__ import annotations

from typing import NamedTuple

from replicator.errors import BadRequest, Busy, NotLeader
from replicator.limits import MAX_INFLIGHT_BYTES, MAX_RECORD_BYTES
from replicator.node.context import NodeContext
from replicator.node.writes import Done, PendingWrite
from replicator.protocol.replication import in_order, logs_command, may_log_commands
from replicator.protocol.suspension import is_inherited
from replicator.records.types import Command, Heartbeat, Member, Replication, Write
from replicator.store.view import Transaction

READ_ONLY = "You can't write against a read only replica."  # Redis' words: clients look for them


def leading_member(context: NodeContext) -> Member | None:
    """The leader, if its address is known."""
    leader = context.replica.state.leader
    return context.replica.machine.meta.membership.get(leader.node) if leader else None


def check_leads(context: NodeContext) -> None:
    """Raises `NotLeader`, or `Busy` at a leader that is resolving its last append."""
    if not context.roles.role.leads:
        raise _not_leader(context)


def _not_leader(context: NodeContext) -> NotLeader | Busy:
    if context.replica.state.leader == context.author:
        failure = context.roles.append_failure
        cause = f" (Kafka: {failure.cause})" if failure else ""
        return Busy(f"the leader is resolving the outcome of its last append{cause}. Try again")
    leader = leading_member(context)
    if leader is None or leader.node == context.author.node:  # this node, before it was restarted
        return NotLeader(f"{READ_ONLY} There is no leader now. Try again")
    return NotLeader(f"{READ_ONLY} The leader is {leader.node}, at {leader.resp}")


def fits(encoded: bytes) -> bool:
    """Whether a body is small enough for a record."""
    return len(encoded) <= MAX_RECORD_BYTES


class Executed(NamedTuple):
    """How a transaction came about."""

    command: Command
    replication: Replication | None  # that the client has asked for; None: as the policy says


class ClientWrites:
    def __init__(self, context: NodeContext) -> None:
        self._context = context

    def begin(self) -> Transaction:
        """A transaction over the store and all writes in flight. Raises `NotLeader`, `NoReplicas`, `Busy`."""
        context = self._context
        if not context.roles.role.queues_writes:
            raise _not_leader(context)
        writes = context.writes
        if writes.refusal is not None:
            raise writes.refusal
        if writes.bytes > MAX_INFLIGHT_BYTES:
            raise Busy(f"{writes.bytes >> 20} MiB of writes are in flight. Try again")
        return Transaction(writes.overlay)

    def are_changing(self, table: str, row: bytes) -> bool:
        """Whether a write in flight changes the row: `begin` shows its effect, and reads may not show it yet."""
        return self._context.writes.overlay.changes_row(table, row)

    def _is_confirmed(self) -> bool:
        """Whether all that a transaction can read now is confirmed: a read at the leader would not wait for any key."""
        context = self._context
        roles, suspended = context.roles, context.replica.machine.suspended
        if context.writes or roles.lease_left_ms() <= 0:
            return False
        return not any(is_inherited(it, roles.term_start_seq) for it in suspended.values())

    @property
    def logs_commands(self) -> bool:
        """Whether the policy needs to know the command that has made the changes of a transaction."""
        membership = self._context.replica.machine.meta.membership
        return membership.policy.replicate is not Replication.ROW and may_log_commands(membership)

    def submit(self, transaction: Transaction, done: Done, executed: Executed | None = None) -> None:
        """Queue the changes as one record; or the command that has made them, if the policy or `executed` says so.

        Raises `NotLeader`, `BadRequest` (too large); `done` is not called then.
        """
        context = self._context
        roles, writes, replica = context.roles, context.writes, context.replica
        if not roles.role.queues_writes:
            raise _not_leader(context)
        changes = transaction.changes
        if not changes and self._is_confirmed():
            done(None, replica.state.offset)
            return
        # without changes, a heartbeat replaces the write: once it is confirmed, so is everything that was read
        body = Write(tuple(changes.values())) if changes else Heartbeat()
        encoded = replica.codec.encode_body(body)
        is_command = False
        if executed is not None and changes and may_log_commands(replica.machine.meta.membership):
            replication = executed.replication or replica.machine.meta.membership.policy.replicate
            as_command = replica.codec.encode_body(executed.command)
            is_command = logs_command(replication, len(as_command), len(encoded)) and fits(as_command)
            if is_command:
                body, encoded = Write(in_order(changes)), as_command
        if not fits(encoded):
            raise BadRequest(
                f"one transaction would take {len(encoded)} bytes in the log, at most {MAX_RECORD_BYTES} are allowed: "
                "split it into smaller ones"
            )
        deadline_ms = context.clock.elapsed_ms() + context.timeouts.answer_ms
        writes.add(PendingWrite(body, encoded, changes, done, deadline_ms, is_command=is_command))
        if replica.row_listener is not None:
            replica.notify_listener(changes.values())
