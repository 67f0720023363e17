"""What each route of the HTTP API does, as data: docs/openapi.json and docs/http-api.md are generated from it.

The routes themselves are in `app`, `keys` and `members`; a test compares both.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum


class Shape(StrEnum):
    """The names of the JSON objects, as docs/openapi.json defines them, and of the text of `/metrics`."""

    ALIVE = "Alive"
    READY = "Ready"
    ROLE = "RoleAnswer"
    STATUS = "Status"
    METRICS = "Metrics"
    SNAPSHOTS = "Snapshots"
    SNAPSHOT_PROGRESS = "SnapshotProgress"
    SNAPSHOT_TAKEN = "SnapshotTaken"
    KEY = "KeyValue"
    MISSING_KEY = "MissingKey"
    NEW_MEMBER = "NewMember"
    MODE_CHANGE = "ModeChange"
    POLICY = "PolicyChange"
    TIMING = "TimingChange"
    PROMOTION = "Promotion"
    STREAM = "ChangeStream"
    STREAM_CHANGE = "ChangeStreamChange"
    COMPARISON = "Comparison"
    COMPARED = "ComparedCheckpoint"
    COMPARED_RANGE = "ComparedRange"
    COMPARED_BOUNDS = "ComparedBounds"
    COMPARED_ENTRIES = "ComparedEntries"
    CHECKPOINT = "Checkpoint"
    KEPT_STATE = "KeptState"
    KEY_RANGES = "KeyRanges"
    RANGE_DIGESTS = "RangeDigests"
    ENTRY_DIGESTS = "EntryDigests"
    ACCEPTED = "Accepted"
    ERROR = "Error"
    REDIRECT = "NotLeader"


def is_change(method: str) -> bool:
    return method not in ("GET", "HEAD")


def is_protected(method: str, path: str) -> bool:
    """Whether a request needs the password, or, without one, a client on the node's own machine."""
    return is_change(method) or path == "/stream" or path.startswith("/keys/")


@dataclass(frozen=True, slots=True)
class Parameter:
    name: str
    where: str  # path or query
    text: str  # a sentence


@dataclass(frozen=True, slots=True)
class Operation:
    method: str
    path: str
    text: str  # a sentence
    answers: Mapping[int, tuple[Shape, str]]  # by HTTP status: the body, and when. `common_answers` has more
    body: Shape | None = None
    parameters: tuple[Parameter, ...] = ()

    @property
    def is_change(self) -> bool:
        return is_change(self.method)

    @property
    def is_protected(self) -> bool:
        return is_protected(self.method, self.path)


_STARTING = (Shape.ERROR, "The node is starting, has failed, or waits for Kafka: the error says which.")
_OTHER_ROLE = (Shape.ROLE, "This node is not. While it is starting, the answer has only `error`.")
_INVALID = (Shape.ERROR, "The request is invalid: the error names the field, and what is expected.")
_NOT_KEPT = (Shape.ERROR, "The node is starting, does not have that state, or compares the stores for another program.")
_NODE = Parameter("node", "path", "Id of a member.")
_ACCEPTED = (Shape.ACCEPTED, "The change is sent to the log. It has taken effect once `/status` shows it.")
_AT_LEADER: Mapping[int, tuple[Shape, str]] = {
    202: _ACCEPTED,
    400: _INVALID,
    409: (Shape.REDIRECT, "This node is not the leader. Send the request to the address in `leader`."),
    503: _STARTING,
}

OPERATIONS = (
    Operation(
        "GET",
        "/healthz",
        "Liveness: only a node that has failed for good is not healthy.",
        {
            200: (Shape.ALIVE, "The node is healthy."),
            500: (Shape.ERROR, "The node has failed, and needs an operator: see the error."),
        },
    ),
    Operation(
        "GET",
        "/readyz",
        "Readiness: whether this node answers reads.",
        {200: (Shape.READY, "This node answers reads."), 503: _STARTING},
    ),
    Operation(
        "GET",
        "/leader",
        "For load balancers of writes: whether this node is the leader, and holds its lease or is idle.",
        {200: (Shape.ROLE, "This node is the leader."), 503: _OTHER_ROLE},
    ),
    Operation(
        "GET",
        "/replica",
        "For load balancers of reads: whether this node is a follower that answers reads.",
        {200: (Shape.ROLE, "This node is such a follower."), 503: _OTHER_ROLE},
    ),
    Operation(
        "GET", "/status", "The status of this node, and what it knows of the cluster.", {200: (Shape.STATUS, "")}
    ),
    Operation(
        "GET",
        "/metrics",
        "Metrics in the text format of Prometheus.",
        {200: (Shape.METRICS, ""), 503: (Shape.ERROR, "The node is starting.")},
    ),
    Operation(
        "GET",
        "/snapshots",
        "The complete snapshots in the repository, the newest first.",
        {200: (Shape.SNAPSHOTS, ""), 503: _STARTING},
    ),
    Operation(
        "GET",
        "/snapshots/progress",
        "How far this node is with a snapshot that it takes or verifies now.",
        {200: (Shape.SNAPSHOT_PROGRESS, ""), 503: _STARTING},
    ),
    Operation(
        "POST",
        "/snapshots",
        "Take a snapshot of the store of this node, which goes on serving, and upload it.",
        {201: (Shape.SNAPSHOT_TAKEN, "It is complete."), 503: (Shape.ERROR, "It failed, or the node is starting.")},
    ),
    Operation(
        "GET",
        "/keys/{key}",
        "The value of one key, at a read level.",
        {
            200: (Shape.KEY, ""),
            400: (Shape.ERROR, "The level is invalid, or the hash has too many fields for JSON."),
            404: (Shape.MISSING_KEY, "There is no such key."),
            409: (Shape.REDIRECT, "Only the leader could answer."),
            503: (Shape.ERROR, "The level cannot be met here in time, or the node is starting."),
        },
        parameters=(
            Parameter("key", "path", "The key, percent-encoded; it may contain slashes."),
            Parameter(
                "level",
                "query",
                "`eventual`, `bounded MS [RECORDS]`, `session TOKEN` or `linearizable`. Default: linearizable at the "
                "leader, eventual at a follower.",
            ),
        ),
    ),
    Operation(
        "PUT",
        "/members",
        "Add a member, or register a new process of one. Nodes do this themselves when they start.",
        _AT_LEADER,
        Shape.NEW_MEMBER,
    ),
    Operation(
        "PUT",
        "/members/{node}/mode",
        "Make a member async, sync or a snapshotter.",
        _AT_LEADER,
        Shape.MODE_CHANGE,
        (_NODE,),
    ),
    Operation("DELETE", "/members/{node}", "Remove a member.", _AT_LEADER, parameters=(_NODE,)),
    Operation("PUT", "/policy", "Set which acks a write waits for.", _AT_LEADER, Shape.POLICY),
    Operation("PUT", "/timing", "Change settings of the timing; the others stay.", _AT_LEADER, Shape.TIMING),
    Operation(
        "POST",
        "/promote",
        "Transfer leadership to another node. With `force`, send it to that node, which claims leadership itself.",
        _AT_LEADER,
        Shape.PROMOTION,
    ),
    Operation(
        "PUT",
        "/comparison",
        "`replicator verify`: keep the state of this node at the next checkpoints, until 30 s after the last request.",
        {202: (Shape.ACCEPTED, "It does."), 400: _INVALID, 503: _NOT_KEPT},
        Shape.COMPARISON,
    ),
    Operation(
        "POST",
        "/comparison/checkpoint",
        "Append a checkpoint, at which the stores are compared.",
        {
            200: (Shape.CHECKPOINT, "It is in the log."),
            400: _INVALID,
            409: (Shape.REDIRECT, "This node is not the leader."),
            503: _NOT_KEPT,
        },
        Shape.COMPARISON,
    ),
    Operation(
        "POST",
        "/comparison/state",
        "Whether this node has applied the log up to a checkpoint, and the digest that its store had there.",
        {200: (Shape.KEPT_STATE, ""), 400: _INVALID, 503: _NOT_KEPT},
        Shape.COMPARED,
    ),
    Operation(
        "POST",
        "/comparison/split",
        "Ranges of so many entries in that state, with their digests.",
        {200: (Shape.KEY_RANGES, ""), 400: _INVALID, 503: _NOT_KEPT},
        Shape.COMPARED_RANGE,
    ),
    Operation(
        "POST",
        "/comparison/ranges",
        "Digests of the ranges between each two keys, computed from the entries in that state.",
        {200: (Shape.RANGE_DIGESTS, ""), 400: _INVALID, 503: _NOT_KEPT},
        Shape.COMPARED_BOUNDS,
    ),
    Operation(
        "POST",
        "/comparison/entries",
        "The digest of each entry of a range in that state.",
        {200: (Shape.ENTRY_DIGESTS, ""), 400: _INVALID, 503: _NOT_KEPT},
        Shape.COMPARED_ENTRIES,
    ),
    Operation(
        "DELETE",
        "/comparison/{id}",
        "End a comparison.",
        {202: (Shape.ACCEPTED, "It has ended."), 503: _STARTING},
        parameters=(Parameter("id", "path", "The id with which it was begun."),),
    ),
    Operation(
        "GET",
        "/stream",
        "The change stream of the cluster: its settings, and how far it is published.",
        {200: (Shape.STREAM, ""), 503: _STARTING},
    ),
    Operation(
        "PUT",
        "/stream",
        "Create or enable the change stream, or stop publishing.",
        {200: (Shape.STREAM, "It is done; the answer describes the change stream."), 400: _INVALID, 503: _STARTING},
        Shape.STREAM_CHANGE,
    ),
    Operation(
        "DELETE",
        "/stream",
        "Delete the published changes, and the state of the change stream.",
        {200: (Shape.STREAM, "It is done; the answer describes the change stream."), 400: _INVALID, 503: _STARTING},
    ),
)
"""In the order of the documentation."""


def common_answers(operation: Operation) -> Mapping[int, tuple[Shape, str]]:
    """Refusals that do not depend on the operation, but on whether it is protected or changes something."""
    answers: dict[int, tuple[Shape, str]] = {}
    if operation.is_protected:
        answers[401] = (Shape.ERROR, "The password is missing or wrong.")
        answers[403] = (Shape.ERROR, "Without a password, only the node's own machine is served; see the error.")
    if operation.is_change:
        answers[415] = (Shape.ERROR, "The header `Content-Type: application/json` is missing.")
    return answers
