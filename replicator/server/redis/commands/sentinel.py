"""SENTINEL, by which clients of Redis Sentinel find the leader. This node answers from what it has read in the log, and
asks the leader which replicas ack records.

There is one master; its name is that of the cluster. Nodes do not vote: the log decides which node is the leader, and
one node that reads it is enough for a failover, so the quorum is 1.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable

from replicator.address import Address
from replicator.errors import BadRequest
from replicator.node.replica_progress import ReplicaReport
from replicator.position import NodeId
from replicator.records.types import Member
from replicator.server.redis.command import Args
from replicator.server.redis.commands.registry import control, integer, refuse_in_multi, wrong_arity
from replicator.server.redis.context import ConnectionContext, ServerContext
from replicator.server.redis.resp import NullArray, Reply, Simple
from replicator.server.redis.topology import NO_LEADER, Topology

QUORUM = 1

Fields = dict[bytes, Reply]


class NoQuorum(BadRequest):
    code = "NOQUORUM"


@control("sentinel", -2)
def sentinel(connection: ConnectionContext, args: Args) -> None:
    refuse_in_multi(connection, "SENTINEL cannot be part of a transaction")
    name = args[1].lower()
    if name not in _SUBCOMMANDS:
        raise BadRequest(f"unknown subcommand '{args[1][:128].decode(errors='replace')}'. Try SENTINEL HELP.")
    count, handler = _SUBCOMMANDS[name]
    if len(args) != count:
        raise wrong_arity(b"sentinel|" + name)
    if handler is not None:
        connection.reply(handler(connection.server, args))
    elif not connection.wait_for_own_writes(args):
        _named(connection.server, args)
        connection.wait_for(_reply_replicas(connection))


async def _reply_replicas(connection: ConnectionContext) -> None:
    server = connection.server
    reports = await server.replica_reports()
    topology = server.topology()
    connection.reply([_replica(server, topology, member, reports.get(member.node)) for member in topology.replicas])


def _address(server: ServerContext, args: Args) -> Reply:
    leader = server.topology().leader
    if args[2] != server.cluster.encode() or leader is None:
        return NullArray()
    return [leader.resp.host.encode(), b"%d" % leader.resp.port]


def _masters(server: ServerContext, args: Args) -> Reply:
    return [_master(server, server.topology())]


def _named_master(server: ServerContext, args: Args) -> Reply:
    return _master(server, _named(server, args))


def _sentinels(server: ServerContext, args: Args) -> Reply:
    topology = _named(server, args)
    return [_sentinel(server, member) for member in topology.sentinels]


def _check_quorum(server: ServerContext, args: Args) -> Reply:
    topology = _named(server, args)
    if not topology.serving:
        raise NoQuorum(
            "0 usable Sentinels. Not enough available Sentinels to reach the specified quorum for this master"
        )
    usable = len(topology.sentinels) + 1
    return Simple(b"OK %d usable Sentinels. Quorum and failover authorization can be reached" % usable)


def _is_down(server: ServerContext, args: Args) -> Reply:
    """Nodes do not vote, so the reply never has a voted leader."""
    integer(args[4])
    topology = server.topology()
    address = topology.leader.resp if topology.leader else NO_LEADER
    asked = [address.host.encode(), b"%d" % address.port] == args[2:4]
    down = topology.leader is not None and topology.leader_down and asked
    return [int(down), b"*", 0]


# `None`: the reply takes a question to the leader
_SUBCOMMANDS: dict[bytes, tuple[int, Callable[[ServerContext, Args], Reply] | None]] = {
    b"get-master-addr-by-name": (3, _address),
    b"masters": (2, _masters),
    b"master": (3, _named_master),
    b"replicas": (3, None),
    b"slaves": (3, None),
    b"sentinels": (3, _sentinels),
    b"ckquorum": (3, _check_quorum),
    b"is-master-down-by-addr": (6, _is_down),
    b"myid": (2, lambda server, args: _id(server, server.topology().node)),
}


def _named(server: ServerContext, args: Args) -> Topology:
    """Raises `BadRequest` if the command names another master."""
    if args[2] != server.cluster.encode():
        raise BadRequest("No such master with that name")
    return server.topology()


def _master(server: ServerContext, topology: Topology) -> Fields:
    leader, timing = topology.leader, server.backend.timing
    flags = "s_down,o_down,master" if topology.leader_down else "master"
    if leader is None:
        flags += ",disconnected"
    return {
        **_instance(
            server,
            name=server.cluster,
            address=leader.resp if leader else NO_LEADER,
            id=_id(server, leader.node) if leader else b"",
            flags=flags,
            silent_ms=topology.leader_silent_ms,
        ),
        b"role-reported": b"master",
        b"role-reported-time": _number(topology.leader_silent_ms),
        b"config-epoch": _number(topology.epoch),
        b"num-slaves": _number(len(topology.replicas)),
        b"num-other-sentinels": _number(len(topology.sentinels)),
        b"quorum": _number(QUORUM),
        b"failover-timeout": _number(timing.election_ms),
        b"parallel-syncs": _number(len(topology.replicas)),  # all read the log at the same time
    }


def _replica(server: ServerContext, topology: Topology, member: Member, report: ReplicaReport | None) -> Fields:
    """`report`: the leader's, if it has answered. Without one, a replica counts as healthy, unless it is this node."""
    behind = member.node == topology.node and not topology.serving
    lost = report is not None and not report.is_responsive
    own_offset = server.backend.status().applied_offset if member.node == topology.node else 0
    leader = topology.leader.resp if topology.leader else NO_LEADER
    flags = "s_down,slave,disconnected" if lost else "s_down,slave" if behind else "slave"
    return {
        **_instance(
            server,
            name=str(member.resp),
            address=member.resp,
            id=_id(server, member.node),
            flags=flags,
            silent_ms=report.ack_age_ms if report else 0.0,
            down_after_ms=server.backend.timing.sync_ms,
        ),
        b"role-reported": b"slave",
        b"role-reported-time": b"0",
        b"master-link-down-time": _number(topology.leader_silent_ms if topology.leader_down else 0),
        b"master-link-status": b"err" if behind or lost or topology.leader_down else b"ok",
        b"master-host": leader.host.encode(),
        b"master-port": _number(leader.port),
        b"slave-priority": _number(member.priority + 1),  # in Redis, a replica of priority 0 is never promoted
        b"slave-repl-offset": _number(max(0, report.offset if report else own_offset)),
        b"replica-announced": b"1",
    }


def _sentinel(server: ServerContext, member: Member) -> Fields:
    id = _id(server, member.node)
    fields = _instance(server, name=id.decode(), address=member.resp, id=id, flags="sentinel")
    del fields[b"info-refresh"]
    return {**fields, b"last-hello-message": b"0", b"voted-leader": b"?", b"voted-leader-epoch": b"0"}


def _instance(
    server: ServerContext,
    *,
    name: str,
    address: Address,
    id: bytes,
    flags: str,
    silent_ms: float = 0.0,
    down_after_ms: float | None = None,
) -> Fields:
    """The fields of every instance. Records of the leader and acks of a replica count as replies to pings.

    `down_after_ms` None: the lease of the leader.
    """
    if down_after_ms is None:
        down_after_ms = server.backend.timing.lease_ms
    down_ms = _number(max(0.0, silent_ms - down_after_ms))
    down: Fields = {b"s-down-time": down_ms} if "s_down" in flags else {}
    if "o_down" in flags:
        down[b"o-down-time"] = down_ms
    return {
        b"name": name.encode(),
        b"ip": address.host.encode(),
        b"port": _number(address.port),
        b"runid": id,
        b"flags": flags.encode(),
        b"link-pending-commands": b"0",
        b"link-refcount": b"1",
        b"last-ping-sent": b"0",
        b"last-ok-ping-reply": _number(silent_ms),
        b"last-ping-reply": _number(silent_ms),
        **down,
        b"down-after-milliseconds": _number(down_after_ms),
        b"info-refresh": _number(silent_ms),
    }


def _id(server: ServerContext, node: NodeId) -> bytes:
    """40 hexadecimal digits as in Redis. They are the same after a restart of the node."""
    return hashlib.sha1(f"{server.cluster}/{node}".encode(), usedforsecurity=False).hexdigest().encode()


def _number(value: float) -> bytes:
    return b"%d" % value
