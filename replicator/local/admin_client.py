"""Client of the HTTP admin API: one node (`NodeAdmin`), or all nodes of a cluster (`ClusterAdmin`)."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from http import HTTPStatus
from http.client import HTTPException, IncompleteRead, RemoteDisconnected
from pathlib import Path
from typing import Any

from replicator.address import Address
from replicator.errors import ConfigError, ReplicatorError
from replicator.local.folder import ClusterFolder
from replicator.local.resp_connection import CommandFailed, NotRedis, RespConnection
from replicator.local.status import MemberInfo, MemberStatus, StatusReply, known_fields, parse_status, unreachable
from replicator.node.snapshots import ListedSnapshot, SnapshotProgress
from replicator.records.types import Mode, Policy
from replicator.store.snapshot import Manifest

TIMEOUT_S = 3.0
STATUS_S = 2.0  # of all nodes: less than the others, as one that hangs must not hide what the rest report
SNAPSHOT_S = 3600.0
LISTING_S = 30.0  # of the repository
PROMOTE_S = 15.0
COMPARISON_S = 20.0  # to compute the digests of so many entries, under load; the others keep their states for longer
CHANGE_STREAM_S = 60.0  # creates or deletes topics, and may have to wait for a publisher's transaction

_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # nodes are never behind a proxy for the web

START_NODES = "Start them with `replicator cluster up`"
CHECK_CONNECT = "Check --connect, and that the node is running"


class NodeUnreachable(ReplicatorError):
    pass


class NoAnswer(NodeUnreachable):
    def __init__(self, http: Address, reason: str) -> None:
        super().__init__(f"no node answers at {http} ({reason}): check that the node is running")
        self.summary = f"{http} ({reason})"


class NodeRefused(ReplicatorError):
    """The node answered with an error."""


@dataclass(frozen=True, slots=True)
class TakenSnapshot:
    repository: str  # its URL; a path is one of the node's machine
    manifest: Manifest

    def as_json(self) -> dict[str, Any]:
        return {"repository": self.repository, **asdict(self.manifest)}


@dataclass(frozen=True, slots=True)
class ChangeStreamInfo:
    """As the node reports it; no settings and no progress if there is no change stream."""

    topic: str
    settings: Mapping[str, Any] | None
    progress: Mapping[str, Any] | None


@dataclass(frozen=True, slots=True)
class NodeAdmin:
    """The admin API of one node. Every request raises `NodeUnreachable` or `NodeRefused`."""

    http: Address
    password: str = ""

    def status(self, timeout_s: float = TIMEOUT_S) -> StatusReply:
        reply = self._request("GET", "/status", timeout_s=timeout_s)
        try:
            return parse_status(reply)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise NodeUnreachable(f"the program at {self.http} is not a node of this version: {error!r}") from error

    def set_mode(self, node: str, mode: Mode) -> None:
        """For the leader, as the next four. The change is in the log, but may not be in effect yet."""
        self._request("PUT", f"/members/{node}/mode", {"mode": mode.value})

    def remove_member(self, node: str) -> None:
        self._request("DELETE", f"/members/{node}")

    def set_policy(self, policy: Policy) -> None:
        self._request("PUT", "/policy", asdict(policy))

    def change_timing(self, settings: Mapping[str, int]) -> None:
        self._request("PUT", "/timing", dict(settings))

    def promote(self, node: str, *, force: bool = False, timeout_s: float = PROMOTE_S) -> None:
        """With `force`, for the node that is to become the leader."""
        self._request("POST", "/promote", {"node": node, "force": force}, timeout_s)

    def take_snapshot(self) -> TakenSnapshot:
        """Returns once it is in the repository."""
        reply = self._request("POST", "/snapshots", timeout_s=SNAPSHOT_S)
        return TakenSnapshot(reply["repository"], Manifest(**known_fields(Manifest, reply)))

    def snapshot_progress(self) -> SnapshotProgress | None:
        """Of a snapshot that the node takes or verifies now."""
        progress = self._request("GET", "/snapshots/progress")["progress"]
        return progress and SnapshotProgress(**known_fields(SnapshotProgress, progress))

    def list_snapshots(self) -> list[ListedSnapshot]:
        """Those of its cluster first; of each cluster its present log first; of a log the highest offset first."""
        return [listed_snapshot(it) for it in self._request("GET", "/snapshots", timeout_s=LISTING_S)["snapshots"]]

    def change_stream(self) -> ChangeStreamInfo:
        return _change_stream(self._request("GET", "/stream", timeout_s=CHANGE_STREAM_S))

    def enable_change_stream(self, options: Mapping[str, Any]) -> ChangeStreamInfo:
        return _change_stream(self._request("PUT", "/stream", {"enabled": True, **options}, SNAPSHOT_S))

    def disable_change_stream(self) -> ChangeStreamInfo:
        return _change_stream(self._request("PUT", "/stream", {"enabled": False}, CHANGE_STREAM_S))

    def reset_change_stream(self) -> None:
        self._request("DELETE", "/stream", timeout_s=CHANGE_STREAM_S)

    def compare(self, method: str, path: str, fields: Any) -> Any:
        """For `ComparisonAdmin`."""
        return self._request(method, path, fields, COMPARISON_S)

    def _request(self, method: str, path: str, body: Any = None, timeout_s: float = TIMEOUT_S) -> Any:
        headers = {"Content-Type": "application/json"}
        if self.password:
            # urllib encodes headers in Latin-1, and nodes expect UTF-8
            headers["Authorization"] = f"Bearer {self.password}".encode(errors="surrogateescape").decode("latin-1")
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.http.url(path), data, headers, method=method)
        try:
            with _DIRECT.open(request, timeout=timeout_s) as response:
                return json.load(response)
        except urllib.error.HTTPError as error:
            raise NodeRefused(self._refusal(error)) from error
        except (RemoteDisconnected, IncompleteRead) as error:
            raise NoAnswer(self.http, "the connection was closed without a reply") from error
        except (ValueError, HTTPException) as error:
            raise NodeUnreachable(f"the program at {self.http} is not a replicator node") from error
        except TimeoutError as error:
            raise NoAnswer(self.http, f"no reply within {timeout_s:.0f} s") from error
        except OSError as error:
            raise NoAnswer(self.http, _reason(error)) from error

    def _refusal(self, error: urllib.error.HTTPError) -> str:
        if error.code == HTTPStatus.UNAUTHORIZED:
            if self.password:
                return "the password is wrong: correct REPLICATOR_NODE_PASSWORD"
            return "a password is needed: set REPLICATOR_NODE_PASSWORD"
        return _error_text(error) or f"the program at {self.http} is not a replicator node (HTTP {error.code})"


def listed_snapshot(fields: Mapping[str, Any]) -> ListedSnapshot:
    """From what `ListedSnapshot.as_json` returns, perhaps in another version."""
    return ListedSnapshot(
        Manifest(**known_fields(Manifest, fields)), fields["verified_at_ms"], fields.get("failure", "")
    )


def _change_stream(reply: dict[str, Any]) -> ChangeStreamInfo:
    return ChangeStreamInfo(reply["topic"], reply["settings"], reply["progress"])


def _reason(error: OSError) -> str:
    """Such as: connection refused."""
    cause = error.reason if isinstance(error, urllib.error.URLError) else error
    text = (cause.strerror if isinstance(cause, OSError) else None) or str(cause)
    return text[:1].lower() + text[1:]


def _error_text(error: urllib.error.HTTPError) -> str | None:
    """None if it does not have the form of a node's errors."""
    try:
        return str(json.load(error)["error"])
    except (ValueError, KeyError, TypeError):
        return None


def _summary(error: ReplicatorError) -> str:
    return error.summary if isinstance(error, NoAnswer) else str(error)


def _status_of(member: MemberInfo, replies: Mapping[Address, StatusReply | ReplicatorError]) -> MemberStatus:
    """The reply of the registered process, at whichever address; otherwise of another process of that node."""
    own = [it for it in replies.values() if isinstance(it, StatusReply) and it.node.id == member.node]
    if own:
        return MemberStatus(member, max(own, key=lambda it: it.incarnation == member.incarnation))
    reply = replies[member.http]
    if isinstance(reply, StatusReply):
        return unreachable(member, f"{reply.node.id} of cluster {reply.cluster} answers at {member.http} instead")
    return unreachable(member, str(reply))


class ClusterAdmin:
    """Finds a node that answers, and the other members through it."""

    def __init__(
        self,
        https: Sequence[Address],
        password: str,
        remedy: str = START_NODES,
        ids: Mapping[Address, str] | None = None,
    ) -> None:
        """`https`: HTTP addresses of one or more nodes; `ids`: which nodes, if that is known.

        `remedy`: what to do if none of them answers.
        """
        self._https = https
        self._ids = ids or {}
        self._password = password
        self._remedy = remedy

    def node(self, http: Address) -> NodeAdmin:
        return NodeAdmin(http, self._password)

    def any_node(self) -> NodeAdmin:
        """The first node that answers. Raises `NodeUnreachable`."""
        return self._first()[0]

    def any_status(self) -> StatusReply:
        """The status of the first node that answers. Raises `NodeUnreachable`."""
        return self._first()[1]

    def _first(self) -> tuple[NodeAdmin, StatusReply]:
        problems = []
        for http in self._https:
            node = self.node(http)
            try:
                return node, node.status()
            except NodeUnreachable as error:
                problems.append(_summary(error))
        raise self._unreachable(problems)

    def _unreachable(self, problems: Iterable[str]) -> NodeUnreachable:
        return NodeUnreachable(f"no node of the cluster answers: {', '.join(problems)}. {self._remedy}")

    def statuses(self) -> list[MemberStatus]:
        """Each member once, and the known nodes that are not members yet. All are asked at the same time.

        Raises `NodeUnreachable` if no node answers.
        """
        replies = self._ask_all(self._https)
        answered = [it for it in replies.values() if isinstance(it, StatusReply)]
        if not answered:
            raise self._unreachable(_summary(it) for it in replies.values() if isinstance(it, ReplicatorError))
        members = max(answered, key=lambda it: it.node.recency).members
        replies |= self._ask_all([member.http for member in members if member.http not in replies])
        found = [_status_of(member, replies) for member in members]
        ids = {member.node for member in members}
        for http in self._https:
            reply = replies[http]
            id = reply.node.id if isinstance(reply, StatusReply) else self._ids.get(http, "?")
            if id not in ids and not any(http == member.http for member in members):
                ids.add(id)
                found.append(_status_of(MemberInfo(id, Mode.ASYNC, None, http, 0), replies))
        return found

    def _ask_all(self, https: Sequence[Address]) -> dict[Address, StatusReply | ReplicatorError]:
        with ThreadPoolExecutor(max_workers=16) as pool:
            return dict(zip(https, pool.map(self._ask, https), strict=True))

    def _ask(self, http: Address) -> StatusReply | ReplicatorError:
        try:
            return self.node(http).status(STATUS_S)
        except (NodeUnreachable, NodeRefused) as error:
            return error

    def member(self, id: str) -> NodeAdmin:
        """Raises `NodeUnreachable`, `ConfigError` if the node is not a member."""
        member = self.any_status().member(id)
        if member is None:
            raise ConfigError(f"{id} is not a member of this cluster: see `replicator status`")
        return self.node(member.http)

    def leader(self) -> NodeAdmin:
        """According to the node that has read most of the log. Raises `NodeUnreachable`."""
        newest = max(self.statuses(), key=lambda it: it.node.recency).reply
        leader = newest.member(newest.node.leader)
        if leader is None:
            raise NodeUnreachable("the cluster has no leader now: see `replicator status`")
        return self.node(leader.http)


def find_cluster(dir: Path, connect: Address | None, password: str) -> ClusterAdmin:
    """Through the node at `connect` (its HTTP or Redis port) if given, else through the nodes of the folder.

    Raises `ConfigError`, `NodeUnreachable`.
    """
    if connect is None:
        ids = {entry.http: entry.id for entry in ClusterFolder(dir).load_nodes()}
        return ClusterAdmin(list(ids), password, ids=ids)
    admin = ClusterAdmin([_http_address(connect, password) or connect], password, CHECK_CONNECT)
    admin.any_status()
    return admin


def _http_address(address: Address, password: str) -> Address | None:
    """The HTTP address that a node reports to Redis clients; None if nothing at `address` speaks the Redis protocol.

    It is asked first, because a node takes a request in HTTP at its Redis port for an attack. Raises `NodeUnreachable`.
    """
    try:
        with RespConnection(address, password, TIMEOUT_S) as connection:
            info = connection.execute("INFO", "replicator")
        fields = dict(line.partition(":")[::2] for line in info.decode(errors="replace").splitlines())
        return Address.parse(fields["http"])
    except (OSError, NotRedis):
        return None
    except CommandFailed as error:
        raise NodeUnreachable(f"no node answers at {address} ({error}). {CHECK_CONNECT}") from error
    except (AttributeError, KeyError, ConfigError) as error:
        raise NodeUnreachable(f"the program at {address} is not a replicator node. {CHECK_CONNECT}") from error
