"""The metadata of a store, its suspended keys and the timing according to the log.

They are written in the same LMDB transaction as the changes; the last two only if they have changed.
"""

from __future__ import annotations

import json
import struct
from dataclasses import asdict, dataclass, field
from typing import Any

from replicator import __version__, formats
from replicator.address import Address
from replicator.errors import StoreError
from replicator.position import Author, Epoch, NodeId, Offset, Seq
from replicator.protocol.log_state import LogState
from replicator.protocol.suspension import Suspended, Suspension
from replicator.protocol.timing import LoggedTiming
from replicator.records.types import Member, Membership, Mode, Policy, Replication, Timing, WaitFor, WriteMode

FORMAT = 1
_FORMER_VERSION = 2  # of records, when stores did not have it
_SUSPENSION = struct.Struct(">QQIH")  # written, announced, awaited, length of the key that follows


@dataclass(frozen=True, slots=True)
class Meta:
    cluster: str
    topic_id: str
    state: LogState = field(default_factory=LogState)
    digest: int = 0  # see `store.digest`
    entries: int = 0
    rows: dict[str, int] = field(default_factory=dict)  # by table
    membership: Membership = field(default_factory=Membership)
    _term: bytes = field(default=b"", compare=False)  # of `_encode_term`; empty: not encoded yet

    def after(self, state: LogState, digest: int, entries: int, rows: dict[str, int], membership: Membership) -> Meta:
        """The metadata after more records."""
        term = self._term
        if not term or state.epoch != self.state.epoch or membership is not self.membership:
            term = _encode_term(self.cluster, self.topic_id, state, membership)
        return Meta(self.cluster, self.topic_id, state, digest, entries, rows, membership, term)

    def encode(self) -> bytes:
        """JSON, with spaces as `json.dumps` has them. It is encoded for each batch, so the fields are joined here."""
        state = self.state
        return (
            b'{"seq": %d, "chain": "%b", "offset": %d, "leader_offset": %d, "digest": "%032x", "entries": %d, '
            b'"rows": %b, %b'
            % (
                state.seq,
                state.chain.hex().encode(),
                state.offset,
                state.leader_offset,
                self.digest,
                self.entries,
                json.dumps(self.rows).encode(),
                self._term or _encode_term(self.cluster, self.topic_id, state, self.membership),
            )
        )


def _encode_term(cluster: str, topic_id: str, state: LogState, membership: Membership) -> bytes:
    """The fields that change only with a claim or the membership, without the opening brace."""
    fields = {
        "format": FORMAT,
        "written_by": __version__,
        "cluster": cluster,
        "topic_id": topic_id,
        "timeline": state.timeline.hex(),
        "epoch": state.epoch,
        "leader": state.leader,
        "members": [_member_fields(member) for member in membership.members],
        "policy": _policy_fields(membership.policy),
        "version": membership.version,
    }
    return json.dumps(fields).encode()[1:]


def decode_meta(encoded: bytes) -> Meta:
    """Raises `StoreError`."""
    fields: dict[str, Any] = json.loads(encoded)
    if fields["format"] != FORMAT:
        newer = formats.describe_newer("the store", fields["format"], FORMAT, fields.get("written_by", ""))
        older = f"the store has format {fields['format']}, which this program (replicator {__version__}) does not read"
        problem = f"{newer}, or" if fields["format"] > FORMAT else f"{older}:"
        raise StoreError(f"{problem} move its folder away: the node builds it again from a snapshot or the log")
    leader = fields["leader"]
    write, wait_for, quorum, named, *replicate = fields["policy"]
    return Meta(
        cluster=fields["cluster"],
        topic_id=fields["topic_id"],
        state=LogState(
            timeline=bytes.fromhex(fields["timeline"]),
            epoch=Epoch(fields["epoch"]),
            leader=Author(NodeId(leader[0]), leader[1]) if leader else None,
            seq=Seq(fields["seq"]),
            chain=bytes.fromhex(fields["chain"]),
            offset=Offset(fields["offset"]),
            leader_offset=Offset(fields["leader_offset"]),
        ),
        digest=int(fields["digest"], 16),
        entries=fields["entries"],
        rows=fields["rows"],
        membership=Membership(
            members=tuple(_member(*member) for member in fields["members"]),
            policy=Policy(
                WriteMode(write), WaitFor(wait_for), quorum, tuple(map(NodeId, named)), *map(Replication, replicate)
            ),
            version=fields.get("version", _FORMER_VERSION),
        ),
    )


def encode_suspended(suspended: Suspended) -> bytes:
    return b"".join(_SUSPENSION.pack(*it, len(key)) + key for key, it in suspended.items())


def decode_suspended(encoded: bytes) -> dict[bytes, Suspension]:
    suspended = {}
    at = 0
    while at < len(encoded):
        written, announced, awaited, length = _SUSPENSION.unpack_from(encoded, at)
        at += _SUSPENSION.size + length
        suspended[encoded[at - length : at]] = Suspension(Seq(written), Seq(announced), awaited)
    return suspended


def encode_timing(timing: LoggedTiming) -> bytes:
    return json.dumps([it and asdict(it) for it in timing]).encode()


def decode_timing(encoded: bytes) -> LoggedTiming:
    return LoggedTiming(*(it and Timing(**it) for it in json.loads(encoded)))


def _member_fields(member: Member) -> tuple[object, ...]:
    addresses = str(member.resp), str(member.http)
    return member.node, member.mode.value, *addresses, member.priority, member.incarnation


def _member(node: str, mode: str, resp: str, http: str, priority: int, incarnation: int = 0) -> Member:
    """Stores of earlier versions have no incarnations."""
    addresses = Address.from_record(resp), Address.from_record(http)
    return Member(NodeId(node), Mode(mode), *addresses, priority, incarnation)


def _policy_fields(policy: Policy) -> tuple[object, ...]:
    """Earlier versions read a store that does without the last one."""
    replicate = () if policy.replicate is Replication.ROW else (policy.replicate.value,)
    return policy.write.value, policy.wait_for.value, policy.quorum, policy.named, *replicate
