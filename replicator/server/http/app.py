"""The HTTP API of a node. `api` describes the routes; their handlers are here, in `keys` and in `members`.

If the node has a password, requests that change something or read a key need `Authorization: Bearer <password>`; else
only clients on its own machine may send them (`server.protection`). Changes need `Content-Type: application/json`.
Errors are `{"error": message}`. A node that is not the leader answers 409, with the leader's HTTP address as `leader`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection
from dataclasses import asdict
from typing import Any, NamedTuple

from aiohttp import web

from replicator.address import Address
from replicator.errors import BadRequest, ConfigError, Loading, NotLeader, ReplicatorError
from replicator.intervals import HTTP_TIMEOUT_S, STOP_TIMEOUT_S
from replicator.limits import LISTEN_BACKLOG, MAX_BODY_BYTES, MAX_HTTP_CONNECTIONS
from replicator.log.port import LogExtent
from replicator.node.change_stream import ChangeStreamControl
from replicator.node.damage import HealHistory
from replicator.node.health import NodeState
from replicator.node.node import Node
from replicator.node.snapshots import SnapshotControl
from replicator.node.status import NodeStatus
from replicator.records.types import Member
from replicator.server.http.api import is_change, is_protected
from replicator.server.http.change_stream import stream_routes
from replicator.server.http.comparison import comparison_routes
from replicator.server.http.keys import read_routes
from replicator.server.http.members import member_routes
from replicator.server.http.metrics import CONTENT_TYPE, MetricsInput, render, render_without_node
from replicator.server.identity import Identity, encode_incarnation
from replicator.server.listening import cannot_listen
from replicator.server.protection import HOW_TO_OPEN, is_bearer, is_loopback, is_own_host, is_same_site
from replicator.server.service_manager import ServiceState
from replicator.server.stats import Stats

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class ServedNode(NamedTuple):
    node: Node
    stats: Stats
    snapshots: SnapshotControl
    changes: ChangeStreamControl


class _Refused(asyncio.Protocol):
    """There are too many connections."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport.close()


class HttpServer:
    """Also serves while the process runs no node: it then reports what the process is waiting for."""

    def __init__(
        self, identity: Identity, password: str, *, protected: bool = False, hosts: Collection[str] = ()
    ) -> None:
        """`protected`: serve only clients on this machine (`server.protection`); `hosts`: names of this node."""
        self.state = NodeState.WAITING  # as the next two: while there is no node
        self.waiting_for = "the process is starting"
        self.kafka_answers = True  # until it is known that it does not
        self.heals = HealHistory()
        self._identity = identity
        self._password = password
        self._protected = protected
        self._hosts = hosts
        self._served: ServedNode | None = None  # None: the process runs no node
        self._runner: web.AppRunner
        self._server: asyncio.Server

    @property
    def address(self) -> Address:
        """The address it listens on."""
        host, port = self._server.sockets[0].getsockname()[:2]
        return Address(host, port)

    async def start(self, address: Address) -> None:
        """Port 0 selects a free port. Raises `ConfigError` if the address is in use or invalid."""
        app = web.Application(client_max_size=MAX_BODY_BYTES, middlewares=[self._authenticate_and_report_errors])
        app.add_routes(
            [
                web.get("/healthz", self._healthz),
                web.get("/readyz", self._readyz),
                web.get("/leader", self._check_leader),
                web.get("/replica", self._check_replica),
                web.get("/status", self._status),
                web.get("/metrics", self._metrics),
                web.get("/snapshots", self._list_snapshots),
                web.get("/snapshots/progress", self._show_snapshot_progress),
                web.post("/snapshots", self._take_snapshot),
                *member_routes(self._ready_node),
                *comparison_routes(self._ready_node),
                *read_routes(self._ready_node),
                *stream_routes(lambda: self._ready().changes),
            ]
        )
        self._runner = web.AppRunner(
            app,
            access_log=None,
            keepalive_timeout=HTTP_TIMEOUT_S,  # also of a connection without a complete request
            lingering_time=HTTP_TIMEOUT_S,  # for the rest of a body that is not read
            shutdown_timeout=STOP_TIMEOUT_S,  # for requests that have begun
            auto_decompress=False,  # a small body may be a large one
        )
        await self._runner.setup()
        try:
            self._server = await asyncio.get_running_loop().create_server(
                self._accept, address.host, address.port, backlog=LISTEN_BACKLOG
            )
        except OSError as error:
            await self._runner.cleanup()
            raise cannot_listen(address, error, option="--http") from error

    def attach_node(self, node: Node, stats: Stats, snapshots: SnapshotControl, changes: ChangeStreamControl) -> None:
        """Serve the requests about this node from now on."""
        self._served = ServedNode(node, stats, snapshots, changes)

    def detach_node(self, state: NodeState, why: str) -> None:
        """There is no node for now, because its store is rebuilt, or could not be."""
        self._served = None
        self.state, self.waiting_for = state, why

    def restart_as(self, identity: Identity) -> None:
        """The process runs another node of the same id."""
        self._identity = identity
        self.state = NodeState.WAITING

    def service_state(self) -> ServiceState:
        """Of the process, with its node or without one."""
        if self._served is None:
            return ServiceState(self.state, self.waiting_for)
        status = self._served.node.status()
        return ServiceState(status.state, status.trouble or status.role)

    def _accept(self) -> asyncio.BaseProtocol:
        server = self._runner.server
        if server is None or len(server.connections) >= MAX_HTTP_CONNECTIONS:
            return _Refused()
        return server()

    async def close(self) -> None:
        self._server.close()
        await self._runner.cleanup()

    @web.middleware
    async def _authenticate_and_report_errors(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        refusal = self._refusal(request)
        if refusal is not None:
            return refusal
        try:
            return await handler(request)
        except web.HTTPError as error:
            return _error(error.status, _describe(error, request.app))
        except NotLeader as error:
            return _error(409, str(error), leader=self._leader_http())
        except (BadRequest, ConfigError) as error:
            return _error(400, str(error))
        except ReplicatorError as error:
            return _error(503, str(error))

    def _refusal(self, request: web.Request) -> web.Response | None:
        """Of a request that changes something or reads a key."""
        if not is_protected(request.method, request.path):
            return None
        host = request.headers.get("Host", "")
        if not is_same_site(request.headers.get("Origin"), host):
            return _error(403, "a page of another site sent this request: remove the header Origin to send it yourself")
        if self._password:
            if not is_bearer(request.headers.get("Authorization", ""), self._password):
                return _error(401, "this request needs the header Authorization: Bearer <password>")
        elif self._protected and not is_loopback(request.remote or ""):
            return _error(403, HOW_TO_OPEN)
        elif not is_own_host(host, self._hosts):
            return _error(
                403,
                f"the header Host is {host[:200]!r}, which is not a name of this node: use an IP address, or set the "
                "name as REPLICATOR_NODE_ADVERTISE",
            )
        if is_change(request.method) and request.content_type != "application/json":
            return _error(415, "a request that changes something needs the header Content-Type: application/json")
        return None

    async def _healthz(self, request: web.Request) -> web.Response:
        if self._served is None and self.state is NodeState.FAILED:
            return _error(500, self.waiting_for)
        if self._served is not None and self._served.node.state is NodeState.FAILED:
            return _error(500, self._served.node.status().trouble)
        return web.json_response({"id": self._identity.author.node, "alive": True})

    async def _readyz(self, request: web.Request) -> web.Response:
        if self._served is None:
            return _error(503, self.waiting_for if self.state is NodeState.WAITING else self._why_no_node())
        status = self._served.node.status()
        if status.state is not NodeState.SERVING:
            return _error(503, f"{status.state}. {status.trouble}".strip())
        return web.json_response({"id": status.id, "role": status.role})

    async def _check_leader(self, request: web.Request) -> web.Response:
        status = self._ready_node().status()
        return self._role_response(status.state is NodeState.SERVING and status.holds_leadership)

    async def _check_replica(self, request: web.Request) -> web.Response:
        node = self._ready_node()
        status = node.status()
        return self._role_response(status.state is NodeState.SERVING and not status.role.leads and node.serves_clients)

    def _role_response(self, matches: bool) -> web.Response:
        node = self._ready_node()
        status, leader = node.status(), node.leading_member
        addresses = {"resp": str(leader.resp), "http": str(leader.http)} if leader else {}
        answer = {"id": status.id, "role": status.role, "state": status.state, "leader": status.leader, **addresses}
        return web.json_response(answer, status=200 if matches else 503)

    async def _status(self, request: web.Request) -> web.Response:
        identity = {"cluster": self._identity.cluster, "incarnation": self._identity.incarnation}
        if self._served is None:
            fields = {
                "id": self._identity.author.node,
                "state": self.state,
                "trouble": self.waiting_for,
                "kafka_answers": self.kafka_answers,
            }
            return web.json_response({**identity, "node": fields, "members": []})
        served = self._served
        node = served.node
        answer = await self._ask(served)
        if answer is None:
            return await self._status(request)
        status, extent = answer
        membership = node.membership
        members = [_member_fields(member) for member in membership.members]
        acked_offsets = {id: last.ack.offset for id, last in node.last_acks.items()}
        return web.json_response(
            {
                **identity,
                "node": asdict(status),
                "log_bytes": None if extent is None else extent.size_bytes,
                "members": members,
                "policy": asdict(membership.policy),
                "record_version": membership.version,
                "timing": node.logged_timing and asdict(node.logged_timing),
                "acked_offsets": acked_offsets,
                "publisher": asdict(served.changes.report),
            }
        )

    async def _ask(self, served: ServedNode) -> tuple[NodeStatus, LogExtent | None] | None:
        """None: the process does not run this node any more, because its store is rebuilt."""
        try:
            status, extent = await asyncio.gather(served.node.current_status(), served.node.log_extent())
        except OSError:  # the store was moved
            if self._served is served:
                raise
            return None
        return (status, extent) if self._served is served else None

    async def _metrics(self, request: web.Request) -> web.Response:
        if self._served is None and self.state is NodeState.WAITING:
            return _error(503, self.waiting_for)
        if self._served is None:
            body = render_without_node(self._identity.cluster, self._identity.author.node, self.state, self.heals)
            return web.Response(body=body, headers={"Content-Type": CONTENT_TYPE})
        served = self._served
        node, stats, snapshots, changes = served
        answer = await self._ask(served)
        if answer is None:
            return await self._metrics(request)
        status, extent = answer
        values = MetricsInput(
            status,
            stats,
            self._identity.cluster,
            node.latencies,
            node.replica_lags,
            node.membership.version,
            extent,
            snapshots.report,
            changes.report,
        )
        return web.Response(body=render(values), headers={"Content-Type": CONTENT_TYPE})

    async def _list_snapshots(self, request: web.Request) -> web.Response:
        snapshots = self._ready().snapshots
        listed = [it.as_json() for it in await snapshots.listed()]
        return web.json_response({"repository": snapshots.repository, "snapshots": listed})

    async def _show_snapshot_progress(self, request: web.Request) -> web.Response:
        """Apart from the list, which asks the repository."""
        progress = self._ready().snapshots.progress
        return web.json_response({"progress": progress and asdict(progress)})

    async def _take_snapshot(self, request: web.Request) -> web.Response:
        snapshots = self._ready().snapshots
        manifest = await snapshots.take()
        return web.json_response({"repository": snapshots.repository, **asdict(manifest)}, status=201)

    def _ready(self) -> ServedNode:
        """Raises `Loading` while the node is starting."""
        if self._served is None:
            raise Loading(self._why_no_node())
        return self._served

    def _why_no_node(self) -> str:
        prefix = "the node is starting" if self.state is NodeState.WAITING else self.state
        return f"{prefix}: {self.waiting_for}"

    def _ready_node(self) -> Node:
        return self._ready().node

    def _leader_http(self) -> str | None:
        leader = self._served.node.leading_member if self._served is not None else None
        return str(leader.http) if leader else None


def _member_fields(member: Member) -> dict[str, Any]:
    return {
        **asdict(member),
        "mode": member.mode.value,
        "resp": str(member.resp),
        "http": str(member.http),
        "incarnation": encode_incarnation(member.incarnation),
    }


def _describe(error: web.HTTPError, app: web.Application) -> str:
    if not isinstance(error, web.HTTPNotFound | web.HTTPMethodNotAllowed):
        return error.reason
    paths = sorted({resource.canonical for resource in app.router.resources()})
    return f"{error.reason}: the paths are {', '.join(paths)}"


def _error(status: int, message: str, **more: Any) -> web.Response:
    return web.json_response({"error": message, **more}, status=status)
