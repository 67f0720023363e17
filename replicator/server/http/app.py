"""The HTTP side of a node.

    GET  /healthz     200 unless the node has failed for good
    GET  /readyz      200 once it answers reads
    GET  /leader      200 if this node leads and holds its lease: a load balancer sends writes here
    GET  /replica     200 if it follows and answers reads
    GET  /status      everything about this node, as JSON
    GET  /metrics     for Prometheus
    GET  /snapshots   those in this node's folder
    POST /snapshots   take one
    GET  /keys/KEY    one key (`http_reads`)
    PUT, DELETE /members, PUT /policy, POST /promote    (`http_members`)

Requests that change something or read a key need `Authorization: Bearer <password>` if the node has one. Every error is
`{"error": what to do}`; a node that does not lead names the leader's HTTP address as `leader`, too (409).
"""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from typing import Any

from aiohttp import web

from replicator.address import Address
from replicator.errors import BadRequest, ConfigError, Loading, NotLeader, ReplicatorError
from replicator.limits import MAX_BODY_BYTES
from replicator.node.health import NodeState
from replicator.node.node import Node
from replicator.records.types import Member
from replicator.server.http.keys import read_routes
from replicator.server.http.members import member_routes
from replicator.server.http.metrics import CONTENT_TYPE, render
from replicator.server.identity import Identity
from replicator.server.stats import Stats
from replicator.store.snapshot import Manifest

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Snapshots:
    """How this node takes snapshots, and where they are."""

    def __init__(
        self, folder: str, take: Callable[[], Awaitable[Manifest]], listed: Callable[[], list[Manifest]]
    ) -> None:
        self.folder = folder
        self.take = take
        self.listed = listed


class Admin:
    """Serves before there is a node, too: it then says what the process waits for."""

    def __init__(self, identity: Identity, password: str) -> None:
        self.waiting_for = "the process starts"
        self._identity = identity
        self._password = password
        self._node: Node | None = None
        self._stats = Stats()
        self._snapshots: Snapshots | None = None
        self._runner: web.AppRunner

    @property
    def address(self) -> Address:
        """Where it listens."""
        host, port = self._runner.addresses[0][:2]
        return Address(host, port)

    async def start(self, address: Address) -> None:
        """Port 0: any free one. Raises `ConfigError` if the address cannot be had."""
        app = web.Application(client_max_size=MAX_BODY_BYTES, middlewares=[self._guard])
        app.add_routes(
            [
                web.get("/healthz", self._healthz),
                web.get("/readyz", self._readyz),
                web.get("/leader", self._is_leader),
                web.get("/replica", self._is_replica),
                web.get("/status", self._status),
                web.get("/metrics", self._metrics),
                web.get("/snapshots", self._list_snapshots),
                web.post("/snapshots", self._take_snapshot),
                *member_routes(self._ready_node),
                *read_routes(self._ready_node),
            ]
        )
        self._runner = web.AppRunner(app, access_log=None)
        await self._runner.setup()
        try:
            await web.TCPSite(self._runner, address.host, address.port).start()
        except OSError as error:
            await self._runner.cleanup()
            raise ConfigError(f"cannot listen at {address}: {error.strerror}. Choose another with --http") from error

    def show(self, node: Node, stats: Stats, snapshots: Snapshots) -> None:
        """From now on there is a node."""
        self._node, self._stats, self._snapshots = node, stats, snapshots

    async def close(self) -> None:
        await self._runner.cleanup()

    @web.middleware
    async def _guard(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        guarded = request.method not in ("GET", "HEAD") or request.path.startswith("/keys/")
        if guarded and self._password:
            expected = f"Bearer {self._password}"
            if not hmac.compare_digest(request.headers.get("Authorization", "").encode(), expected.encode()):
                return _error(401, "this needs the header Authorization: Bearer <password>")
        try:
            return await handler(request)
        except web.HTTPError as error:
            return _error(error.status, f"{error.reason}: see GET /status, /metrics, /snapshots")
        except NotLeader as error:
            return _error(409, str(error), leader=self._leader_http())
        except (BadRequest, ConfigError) as error:
            return _error(400, str(error))
        except ReplicatorError as error:
            return _error(503, str(error))

    async def _healthz(self, request: web.Request) -> web.Response:
        if self._node is not None and self._node.state is NodeState.FAILED:
            return _error(500, self._node.status().trouble)
        return web.json_response({"id": self._identity.author.node, "alive": True})

    async def _readyz(self, request: web.Request) -> web.Response:
        if self._node is None:
            return _error(503, self.waiting_for)
        status = self._node.status()
        if status.state is not NodeState.SERVING:
            return _error(503, f"{status.state}. {status.trouble}".strip())
        return web.json_response({"id": status.id, "role": status.role})

    async def _is_leader(self, request: web.Request) -> web.Response:
        status = self._ready_node().status()
        return self._role(status.state is NodeState.SERVING and status.lease_left_ms > 0)

    async def _is_replica(self, request: web.Request) -> web.Response:
        node = self._ready_node()
        status = node.status()
        return self._role(status.state is NodeState.SERVING and not status.role.leads and node.serves_clients)

    def _role(self, wanted: bool) -> web.Response:
        node = self._ready_node()
        status, leader = node.status(), node.leading_member
        known = {"resp": str(leader.resp), "http": str(leader.http)} if leader else {}
        answer = {"id": status.id, "role": status.role, "state": status.state, "leader": status.leader, **known}
        return web.json_response(answer, status=200 if wanted else 503)

    async def _status(self, request: web.Request) -> web.Response:
        who = {"cluster": self._identity.cluster, "incarnation": self._identity.incarnation}
        if self._node is None:
            node = {"id": self._identity.author.node, "state": NodeState.WAITING, "trouble": self.waiting_for}
            return web.json_response({**who, "node": node, "members": []})
        status = await self._node.current_status()
        membership = self._node.membership
        members = [_member_fields(member) for member in membership.members]
        heard = {node: heard.ack.offset for node, heard in self._node.last_acks.items()}
        return web.json_response(
            {
                **who,
                "node": asdict(status),
                "members": members,
                "policy": asdict(membership.policy),
                "acked_offsets": heard,
            }
        )

    async def _metrics(self, request: web.Request) -> web.Response:
        if self._node is None:
            return _error(503, self.waiting_for)
        return web.Response(
            body=render(await self._node.current_status(), self._stats), headers={"Content-Type": CONTENT_TYPE}
        )

    async def _list_snapshots(self, request: web.Request) -> web.Response:
        snapshots = self._ready_snapshots()
        manifests = await asyncio.to_thread(snapshots.listed)
        return web.json_response({"folder": snapshots.folder, "snapshots": [asdict(it) for it in manifests]})

    async def _take_snapshot(self, request: web.Request) -> web.Response:
        snapshots = self._ready_snapshots()
        manifest = await snapshots.take()
        return web.json_response({"folder": snapshots.folder, **asdict(manifest)}, status=201)

    def _ready_snapshots(self) -> Snapshots:
        if self._snapshots is None:
            raise Loading(f"there is no store yet: {self.waiting_for}")
        return self._snapshots

    def _ready_node(self) -> Node:
        if self._node is None:
            raise Loading(f"there is no node yet: {self.waiting_for}")
        return self._node

    def _leader_http(self) -> str | None:
        if self._node is None:
            return None
        leader = self._node.status().leader
        member = self._node.membership.get(leader) if leader else None
        return str(member.http) if member else None


def _member_fields(member: Member) -> dict[str, Any]:
    return {**asdict(member), "mode": member.mode.value, "resp": str(member.resp), "http": str(member.http)}


def _error(status: int, message: str, **more: Any) -> web.Response:
    return web.json_response({"error": message, **more}, status=status)
