"""The sections of INFO: those of Redis that apply, and one more, `replicator`."""

from __future__ import annotations

import asyncio
import os
import resource
from collections.abc import Iterator

from replicator.server.redis.context import ServerContext
from replicator.server.redis.topology import leader_address, observe, online_replicas, shown_offset

REDIS_VERSION = b"7.0.15"  # whose commands and error messages this server copies

Pairs = list[tuple[bytes, bytes]]


def sections(server: ServerContext) -> Iterator[tuple[bytes, Pairs]]:
    status = server.backend.status()
    stats = server.stats
    yield (
        b"server",
        _pairs(
            redis_version=REDIS_VERSION.decode(),
            redis_mode="standalone",
            process_id=os.getpid(),
            tcp_port=server.port,
            uptime_in_seconds=int(asyncio.get_running_loop().time() - server.started_s),
        ),
    )
    yield b"clients", _pairs(connected_clients=len(server.connections), maxclients=server.max_clients)
    yield b"memory", _pairs(used_memory_peak_rss=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
    yield (
        b"stats",
        _pairs(
            total_connections_received=stats.connections,
            total_commands_processed=stats.commands,
            rejected_connections=stats.refused_connections,
            writes_ok=stats.writes_ok,
            writes_rejected=stats.writes_rejected,
            writes_unknown=stats.writes_unknown,
        ),
    )
    yield b"replication", _replication(server)
    yield (
        b"replicator",
        _pairs(
            node=status.id,
            state=status.state,
            trouble=status.trouble,
            epoch=status.epoch,
            leader=status.leader or "",
            term_ms="" if status.term_ms is None else int(status.term_ms),
            term_reason=status.elected.reason if status.elected else "",
            term_why=status.elected.why if status.elected else "",
            lease_left_ms=int(status.lease_left_ms),
            timeline=status.timeline,
            seq=status.seq,
            applied_offset=status.applied_offset,
            end_offset=status.end_offset,
            digest=status.digest,
            entries=status.entries,
            http=server.http_address or "",
        ),
    )
    rows = server.rows()
    expires = server.expiring_rows()
    yield b"keyspace", _pairs(db0=f"keys={rows},expires={expires},avg_ttl=0") if rows else []


def _replication(server: ServerContext) -> Pairs:
    backend = server.backend
    status = backend.status()
    offset = shown_offset(backend)
    if status.role.leads:
        replicas = list(online_replicas(backend))
        pairs = _pairs(role="master", connected_slaves=len(replicas))
        for index, it in enumerate(replicas):
            address = it.address
            line = f"ip={address.host},port={address.port},state=online,offset={it.offset},lag={it.lag_s}"
            pairs += _pairs(**{f"slave{index}": line})
    else:
        address, topology = leader_address(backend), observe(backend)
        silent_s = int(topology.leader_silent_ms / 1000)
        pairs = _pairs(
            role="slave",
            master_host=address.host,
            master_port=address.port,
            master_link_status="down" if topology.leader_down else "up",
            master_last_io_seconds_ago=-1 if topology.leader_down else silent_s,
        )
        if topology.leader_down:
            pairs += _pairs(master_link_down_since_seconds=silent_s)
        pairs += _pairs(slave_repl_offset=offset, slave_read_only=1)
    return pairs + _pairs(master_replid=status.timeline, master_repl_offset=offset)


def _pairs(**values: object) -> Pairs:
    return [(name.encode(), str(value).encode()) for name, value in values.items()]
