"""Asks the nodes of a cluster over HTTP."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Any

import redis

from replicator.address import Address
from replicator.errors import ConfigError, ReplicatorError
from replicator.local.folder import ClusterFolder

TIMEOUT_S = 3.0
SNAPSHOT_S = 600.0
UNREACHABLE = "unreachable"


class NodeUnreachable(ReplicatorError):
    pass


class NodeRefused(ReplicatorError):
    """The node answered with an error."""

    def __init__(self, message: str, leader: Address | None) -> None:
        super().__init__(message)
        self.leader = leader  # HTTP address of the node to ask instead


@dataclass(frozen=True, slots=True)
class NodeClient:
    """One node's HTTP side."""

    http: Address
    password: str = ""

    def ask(self, method: str, path: str, body: Any = None, timeout_s: float = TIMEOUT_S) -> Any:
        """Raises `NodeUnreachable`, `NodeRefused`."""
        headers = {"Content-Type": "application/json"}
        if self.password:
            headers["Authorization"] = f"Bearer {self.password}"
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.http.url(path), data, headers, method=method)
        try:
            with urllib.request.urlopen(request, timeout=timeout_s) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            raise _refusal(error) from error
        except (OSError, ValueError, HTTPException) as error:
            raise NodeUnreachable(f"no node answers at {self.http}: {error}") from error

    def status(self) -> Any:
        return self.ask("GET", "/status")


def _refusal(error: urllib.error.HTTPError) -> NodeRefused:
    try:
        fields = json.load(error)
        leader = fields.get("leader")
        return NodeRefused(str(fields["error"]), Address.from_record(leader) if leader else None)
    except (ValueError, KeyError, TypeError):
        return NodeRefused(f"HTTP {error.code}", None)


class ClusterClient:
    """Finds a node that answers, and asks all of them."""

    def __init__(self, https: list[Address], password: str) -> None:
        self._https = https
        self._password = password

    def node(self, http: Address) -> NodeClient:
        return NodeClient(http, self._password)

    def any_status(self) -> Any:
        """Of the first node that answers. Raises `NodeUnreachable`."""
        return self._first_answer()[1]

    def any_node(self) -> NodeClient:
        """The first node that answers. Raises `NodeUnreachable`."""
        return self._first_answer()[0]

    def _first_answer(self) -> tuple[NodeClient, Any]:
        problems = []
        for http in self._https:
            try:
                return self.node(http), self.node(http).status()
            except NodeUnreachable as error:
                problems.append(str(error))
        raise NodeUnreachable("no node of the cluster answers. " + ". ".join(problems))

    def statuses(self) -> list[Any]:
        """One status a member, and one for each node of the folder that is none yet; `state` may be unreachable."""
        first = self.any_status()
        addresses = {Address.from_record(member["http"]): member for member in first["members"]}
        for http in self._https:
            addresses.setdefault(http, {"node": "?", "http": str(http), "resp": "", "mode": "async", "priority": 0})
        with ThreadPoolExecutor(max_workers=16) as pool:
            return list(pool.map(self._status_of, addresses.values()))

    def _status_of(self, member: Any) -> Any:
        try:
            return {"member": member, **self.node(Address.from_record(member["http"])).status()}
        except (NodeUnreachable, NodeRefused) as error:
            return {"member": member, "node": {"id": member["node"], "state": UNREACHABLE, "trouble": str(error)}}

    def member(self, id: str) -> NodeClient:
        """Raises `NodeUnreachable`, `ConfigError` if it is none."""
        for member in self.any_status()["members"]:
            if member["node"] == id:
                return self.node(Address.from_record(member["http"]))
        raise ConfigError(f"{id} is no member of this cluster: see `replicator status`")

    def leader(self) -> NodeClient:
        """As the node with the newest epoch knows it. Raises `NodeUnreachable`."""
        status = max(self.statuses(), key=lambda it: it["node"].get("epoch", -1))
        for member in status["members"]:
            if member["node"] == status["node"].get("leader"):
                return self.node(Address.from_record(member["http"]))
        raise NodeUnreachable("the cluster has no leader now: see `replicator status`")


def find_cluster(dir: Path, connect: str | None, password: str) -> ClusterClient:
    """By `--connect` if it is given, else by the folder. Raises `ConfigError`."""
    if connect is None:
        nodes = ClusterFolder(dir).load().nodes
        if not nodes:
            raise ConfigError(f"the cluster in {dir} has no nodes: `replicator cluster up` starts some")
        return ClusterClient([entry.http for entry in nodes], password)
    place = Address.parse(connect)
    client = ClusterClient([place], password)
    try:
        client.any_status()
        return client
    except NodeUnreachable:
        http = _ask_redis(place, password)
        if http is None:
            raise
        return ClusterClient([http], password)


def _ask_redis(place: Address, password: str) -> Address | None:
    """The HTTP address that a node tells Redis clients."""
    try:
        with redis.Redis(place.host, place.port, password=password or None, socket_timeout=TIMEOUT_S) as client:
            info: Any = client.info("replicator")
            return Address.parse(str(info["http"]))
    except (redis.RedisError, KeyError, ConfigError):
        return None
