"""Converts each kind of body to the fields of its Avro record, and back."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from replicator.address import Address
from replicator.position import Author, Epoch, NodeId, Offset, Seq
from replicator.records.tape import Call, TapeValue
from replicator.records.types import (
    Body,
    Change,
    Checkpoint,
    Claim,
    Command,
    Group,
    Heartbeat,
    Member,
    Membership,
    Mode,
    Policy,
    Reason,
    Release,
    Replication,
    Suspend,
    Timing,
    WaitFor,
    Write,
    WriteMode,
)

Fields = dict[str, Any]
_NAMESPACE = "replicator."


def to_avro(body: Body) -> tuple[str, Fields]:
    """The name of the union branch and its fields, in the form that fastavro takes."""
    return _NAMESPACE + type(body).__name__, _fields(body)


def _fields(body: Body) -> Fields:
    match body:
        case Write():
            return {"changes": _changes(body)}
        case Group():
            return {"transactions": [_changes(write) for write in body.writes]}
        case Command():
            return {
                "engine": body.engine,
                "lines": body.lines,
                "tape": [{"name": call.name, "result": _branch(call.result)} for call in body.tape],
                "now_ms": body.now_ms,
                "changes": body.changes,
                "reads": body.reads,
            }
        case Claim():
            node, incarnation = body.leader
            return {
                "node": node,
                "incarnation": incarnation,
                "epoch": body.epoch,
                "observed": body.observed,
                "reason": body.reason.value,
            }
        case Heartbeat():
            return {}
        case Checkpoint():
            return {"digest": body.digest.to_bytes(16, "big"), "entries": body.entries}
        case Membership():
            return _membership_fields(body)
        case Suspend():
            return {"keys": list(body.keys)}
        case Release():
            return {"up_to_seq": body.up_to_seq}
        case Timing():
            return asdict(body)


def _changes(write: Write) -> list[Fields]:
    return [change._asdict() for change in write.changes]


def _branch(value: TapeValue) -> TapeValue | tuple[str, TapeValue]:
    """With the name of the branch, where fastavro would have to try them."""
    return ("double", value) if isinstance(value, float) else value


def _membership_fields(body: Membership) -> Fields:
    policy = body.policy
    return {
        "members": [
            {
                "node": member.node,
                "mode": member.mode.value,
                "resp": str(member.resp),
                "http": str(member.http),
                "priority": member.priority,
                "incarnation": member.incarnation,
            }
            for member in body.members
        ],
        "policy": {
            "write": policy.write.value,
            "wait_for": policy.wait_for.value,
            "quorum": policy.quorum,
            "named": list(policy.named),
            "replicate": policy.replicate.value,
        },
        "version": body.version,
    }


def from_avro(name: str, fields: Fields) -> Body:
    """Raises `ValueError` for a branch that this program does not support."""
    match name.removeprefix(_NAMESPACE):
        case "Write":
            return _write(fields["changes"])
        case "Group":
            return Group(tuple(map(_write, fields["transactions"])))
        case "Command":
            return Command(
                engine=fields["engine"],
                lines=tuple(map(tuple, fields["lines"])),
                tape=tuple(Call(call["name"], call["result"]) for call in fields["tape"]),
                now_ms=fields["now_ms"],
                changes=fields["changes"],
                reads=fields["reads"],
            )
        case "Claim":
            return Claim(
                leader=Author(NodeId(fields["node"]), fields["incarnation"]),
                epoch=Epoch(fields["epoch"]),
                observed=Offset(fields["observed"]),
                reason=Reason(fields["reason"]),
            )
        case "Heartbeat":
            return Heartbeat()
        case "Checkpoint":
            return Checkpoint(int.from_bytes(fields["digest"], "big"), fields["entries"])
        case "Membership":
            return _membership(fields)
        case "Suspend":
            return Suspend(tuple(fields["keys"]))
        case "Release":
            return Release(Seq(fields["up_to_seq"]))
        case "Timing":
            return Timing(**fields)
        case other:
            raise ValueError(f"this program does not support {other} records")


def _write(changes: list[Fields]) -> Write:
    return Write(tuple(Change(**change) for change in changes))


def _membership(fields: Fields) -> Membership:
    policy = fields["policy"]
    return Membership(
        members=tuple(
            Member(
                node=NodeId(member["node"]),
                mode=Mode(member["mode"]),
                resp=Address.from_record(member["resp"]),
                http=Address.from_record(member["http"]),
                priority=member["priority"],
                incarnation=member["incarnation"],
            )
            for member in fields["members"]
        ),
        policy=Policy(
            write=WriteMode(policy["write"]),
            wait_for=WaitFor(policy["wait_for"]),
            quorum=policy["quorum"],
            named=tuple(NodeId(node) for node in policy["named"]),
            replicate=Replication(policy["replicate"]),
        ),
        version=fields["version"],
    )
