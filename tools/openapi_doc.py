"""Generates docs/openapi.json, and the part of docs/http-api.md between its markers, from `replicator.server.http.api`.

python -m tools.openapi_doc
"""

from __future__ import annotations

import json
import re
import types
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from enum import Enum
from pathlib import Path
from typing import Any, Union, get_args, get_origin, get_type_hints

from replicator import __version__
from replicator.address import Address
from replicator.node.change_stream import PublisherReport
from replicator.node.health import NodeState
from replicator.node.snapshots import SnapshotProgress
from replicator.node.status import NodeStatus
from replicator.protocol.roles import Role
from replicator.records.types import Member, Policy, Replication, Timing, WaitFor, WriteMode
from replicator.server.http.api import OPERATIONS, Operation, Shape, common_answers
from replicator.server.http.members import SETTABLE_MODES
from replicator.store.snapshot import Manifest
from replicator.stream.settings import StreamSettings

DOCS = Path(__file__).parents[1] / "docs"
PAGE, OPENAPI = DOCS / "http-api.md", DOCS / "openapi.json"
_PART = re.compile(r"(<!-- generated: operations -->\n).*?(<!-- end -->)", re.DOTALL)
_PRIMITIVES: Mapping[Any, str] = {str: "string", int: "integer", float: "number", bool: "boolean", type(None): "null"}

Schema = dict[str, Any]

TEXT: Schema = {"type": "string"}
NODE_ID: Schema = {"type": "string", "description": "Id of a node."}
HOST_PORT: Schema = {"type": "string", "description": "HOST:PORT, with an IPv6 host in brackets."}
INCARNATION: Schema = {"type": "string", "pattern": "^[0-9a-f]{16}$", "description": "Of a process; random."}


def schema_of(kind: Any) -> Schema:
    """The JSON Schema of what `json.dumps` makes of `asdict` of a value of this type. Raises `TypeError`."""
    kind = getattr(kind, "__supertype__", kind)  # of a NewType
    origin, arguments = get_origin(kind), get_args(kind)
    if kind is Address:
        return HOST_PORT
    if kind in _PRIMITIVES:
        return {"type": _PRIMITIVES[kind]}
    if isinstance(kind, type) and issubclass(kind, Enum):
        return {"enum": [it.value for it in kind]}
    if origin in (Union, types.UnionType):
        return {"anyOf": [schema_of(it) for it in arguments]}
    if origin is dict:
        return {"type": "object", "additionalProperties": schema_of(arguments[1])}
    if origin in (tuple, list):
        return {"type": "array", "items": schema_of(arguments[0])}
    if is_dataclass(kind):
        hints = get_type_hints(kind)
        return an_object({it.name: schema_of(hints[it.name]) for it in fields(kind)})
    if isinstance(kind, type) and issubclass(kind, str):
        return TEXT
    raise TypeError(f"no schema for {kind}")


def an_object(required: Mapping[str, Schema], optional: Mapping[str, Schema] | None = None) -> Schema:
    schema: Schema = {"type": "object", "properties": {**required, **(optional or {})}}
    return {**schema, "required": list(required)} if required else schema


def reference(shape: Shape) -> Schema:
    return {"$ref": f"#/components/schemas/{shape}"}


def shapes() -> dict[Shape, Schema]:
    manifest, member = schema_of(Manifest)["properties"], schema_of(Member)["properties"]
    listed = {**manifest, "verified_at_ms": {"anyOf": [{"type": "integer"}, {"type": "null"}]}, "failure": TEXT}
    leader = {"leader": {"anyOf": [NODE_ID, {"type": "null"}]}}
    roles = an_object(
        {"id": NODE_ID, "role": schema_of(Role), "state": schema_of(NodeState), **leader},
        {"resp": HOST_PORT, "http": HOST_PORT},
    )
    return {
        Shape.ALIVE: an_object({"id": NODE_ID, "alive": {"const": True}}),
        Shape.READY: an_object({"id": NODE_ID, "role": schema_of(Role)}),
        Shape.ROLE: {"anyOf": [roles, reference(Shape.ERROR)], "description": "`resp` and `http` are of the leader."},
        Shape.STATUS: _status(an_object({**member, "incarnation": INCARNATION})),
        Shape.METRICS: TEXT,
        Shape.SNAPSHOTS: an_object(
            {"repository": TEXT, "snapshots": {"type": "array", "items": an_object(listed)}},
        ),
        Shape.SNAPSHOT_PROGRESS: an_object({"progress": {"anyOf": [schema_of(SnapshotProgress), {"type": "null"}]}}),
        Shape.SNAPSHOT_TAKEN: an_object({"repository": TEXT, **manifest}),
        Shape.KEY: _key(),
        Shape.MISSING_KEY: an_object({"key": TEXT, "level": TEXT, "token": TEXT, "error": TEXT}),
        Shape.NEW_MEMBER: an_object(
            {"node": NODE_ID, "resp": HOST_PORT, "http": HOST_PORT, "priority": {"type": "integer"}},
            {
                "incarnation": INCARNATION,
                "replaces": {**INCARNATION, "description": "Required with `incarnation`."},
                "timeline": {"type": "string", "description": "Of the store of the process."},
            },
        ),
        Shape.MODE_CHANGE: an_object({"mode": {"enum": [mode.value for mode in SETTABLE_MODES]}}),
        Shape.POLICY: an_object(
            {"write": schema_of(WriteMode)},
            {
                "wait_for": schema_of(WaitFor),
                "quorum": {"type": "integer", "description": "With `wait_for` `quorum`: how many sync members."},
                "named": {"type": "array", "items": NODE_ID, "description": "With `wait_for` `named`."},
                "replicate": {
                    **schema_of(Replication),
                    "description": "What the log has of a write: its changes, the command that made them, or the "
                    "smaller of both. The default is `row`.",
                },
            },
        ),
        Shape.TIMING: {**an_object({}, _timing()), "minProperties": 1},
        Shape.PROMOTION: an_object({"node": NODE_ID}, {"force": {"type": "boolean", "default": False}}),
        Shape.STREAM: _stream(),
        Shape.STREAM_CHANGE: an_object(
            {"enabled": {"type": "boolean"}},
            {
                "start_from": {"enum": ["earliest", "latest", "snapshot"], "default": "earliest"},
                "format": {"enum": ["json", "avro"], "default": "json"},
                "partitions": {"type": "integer", "minimum": 1, "default": 1},
                "compacted": {"type": "boolean", "default": False},
                "retention_ms": {"type": "integer", "minimum": 1, "description": "Default: that of the brokers."},
                "registry": {"type": "string", "description": "URL of a schema registry, for Avro."},
            },
        ),
        **_comparison(),
        Shape.ACCEPTED: an_object({"accepted": TEXT}),
        Shape.ERROR: an_object({"error": TEXT}),
        Shape.REDIRECT: an_object({"error": TEXT, "leader": {"anyOf": [HOST_PORT, {"type": "null"}]}}),
    }


def _comparison() -> dict[Shape, Schema]:
    key = {"type": "string", "pattern": "^([0-9a-f]{2})*$", "description": "A store key, in hexadecimal digits."}
    stop = {**key, "description": "Exclusive. Empty: the end of the store."}
    count: Schema = {"type": "integer", "minimum": 1}
    id = {"type": "string", "minLength": 1, "maxLength": 64, "description": "Chosen by the program that compares."}
    at: dict[str, Schema] = {"id": id, "offset": {"type": "integer", "description": "Of the checkpoint."}}
    digest = {"type": "string", "pattern": "^[0-9a-f]{32}$"}
    entries: Schema = {"type": "integer", "minimum": 0}
    described = an_object({"start": key, "stop": stop, "digest": digest, "entries": entries})
    digested = an_object({"digest": digest, "entries": entries, "is_complete": {"type": "boolean"}})
    entry = an_object({"key": key, "digest": digest})
    return {
        Shape.COMPARISON: an_object({"id": id}),
        Shape.COMPARED: an_object(at),
        Shape.COMPARED_RANGE: an_object({**at, "start": key, "stop": stop, "entries": count}),
        Shape.COMPARED_BOUNDS: an_object({**at, "bounds": {"type": "array", "items": key, "minItems": 2}}),
        Shape.COMPARED_ENTRIES: an_object({**at, "start": key, "stop": stop, "limit": count}),
        Shape.CHECKPOINT: an_object({"offset": {"type": "integer"}}),
        Shape.KEPT_STATE: an_object({"applied": {"type": "boolean"}}, {"digest": digest, "entries": entries}),
        Shape.KEY_RANGES: an_object({"ranges": {"type": "array", "items": described}}),
        Shape.RANGE_DIGESTS: an_object({"ranges": {"type": "array", "items": digested}}),
        Shape.ENTRY_DIGESTS: an_object({"entries": {"type": "array", "items": entry}, "are_all": {"type": "boolean"}}),
    }


def _stream() -> Schema:
    nullable = {"type": "null"}
    progress = an_object(
        {
            "offset": {"type": "integer", "description": "Of the last entry of the log that is published."},
            "seq": {"type": "integer"},
            "changes": {"type": "integer"},
            "backfilling": {"type": "boolean"},
        }
    )
    return an_object(
        {
            "topic": TEXT,
            "settings": {"anyOf": [schema_of(StreamSettings), nullable]},
            "progress": {"anyOf": [progress, nullable]},
        }
    )


def _timing() -> Mapping[str, Schema]:
    hints = get_type_hints(Timing, include_extras=True)
    return {it.name: {"type": "integer", "description": hints[it.name].__metadata__[0]} for it in fields(Timing)}


def _key() -> Schema:
    value = {"anyOf": [TEXT, {"type": "object", "additionalProperties": TEXT}]}
    known = {"key": TEXT, "level": TEXT, "token": TEXT}
    schema = an_object({**known, "type": {"enum": ["string", "hash"]}, "value": value})
    schema["description"] = (
        "The value of a hash is an object. Bytes that are not valid UTF-8 are escaped with backslashes. `token` is for "
        "the level `session`."
    )
    return schema


def _status(member: Schema) -> Schema:
    identity = {"cluster": TEXT, "incarnation": INCARNATION}
    members = {"type": "array", "items": member}
    starting = an_object(
        {
            **identity,
            "node": an_object(
                {
                    "id": NODE_ID,
                    "state": {"enum": [it.value for it in (NodeState.WAITING, NodeState.HEALING, NodeState.FAILED)]},
                    "trouble": TEXT,
                    "kafka_answers": {"type": "boolean"},
                }
            ),
            "members": {"type": "array", "maxItems": 0},
        }
    )
    serving = an_object(
        {
            **identity,
            "node": schema_of(NodeStatus),
            "log_bytes": {
                "type": ["integer", "null"],
                "description": "Size of the log in Kafka, in bytes. null: Kafka does not report it.",
            },
            "members": members,
            "policy": schema_of(Policy),
            "record_version": {"type": "integer", "description": "Version of the records that the leader writes."},
            "timing": {"anyOf": [an_object(_timing()), {"type": "null"}]},
            "publisher": schema_of(PublisherReport),
            "acked_offsets": {"type": "object", "additionalProperties": {"type": "integer"}},
        }
    )
    return {
        "anyOf": [serving, starting],
        "description": "The short form is that of a process that starts, or rebuilds its store.",
    }


def openapi() -> dict[str, Any]:
    paths: dict[str, dict[str, Any]] = {}
    for operation in OPERATIONS:
        paths.setdefault(operation.path, {})[operation.method.lower()] = _described(operation)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "replicator: the HTTP API of a node",
            "version": __version__,
            "description": "Fields may be added to answers: ignore unknown ones. HEAD is answered wherever GET is.",
        },
        "servers": [{"url": "http://127.0.0.1:8001"}],
        "paths": paths,
        "components": {
            "securitySchemes": {"password": {"type": "http", "scheme": "bearer"}},
            "schemas": {shape.value: schema for shape, schema in shapes().items()},
        },
    }


def _described(operation: Operation) -> dict[str, Any]:
    answers = {**operation.answers, **common_answers(operation)}
    found: dict[str, Any] = {"summary": operation.text, "responses": {}}
    for code, (shape, text) in sorted(answers.items()):
        media = "text/plain" if shape is Shape.METRICS else "application/json"
        content = {media: {"schema": reference(shape)}}
        found["responses"][str(code)] = {"description": text or "The answer.", "content": content}
    if operation.parameters:
        found["parameters"] = [
            {"name": it.name, "in": it.where, "required": it.where == "path", "description": it.text, "schema": TEXT}
            for it in operation.parameters
        ]
    if operation.body is not None:
        content = {"application/json": {"schema": reference(operation.body)}}
        found["requestBody"] = {"required": True, "content": content}
    if operation.is_protected:
        found["security"] = [{"password": []}, {}]
    return found


def operations_table() -> str:
    lines = ["| request | meaning | body | answers |", "| --- | --- | --- | --- |"]
    for it in OPERATIONS:
        codes = ", ".join(str(code) for code in sorted({**it.answers, **common_answers(it)}))
        body = "" if it.body is None else ", ".join(f"`{name}`" for name in _body_fields(it.body))
        lines.append(f"| `{it.method} {it.path}` | {it.text} | {body} | {codes} |")
    return "\n".join(lines)


def _body_fields(shape: Shape) -> list[str]:
    schema = shapes()[shape]
    return [name if name in schema.get("required", ()) else f"[{name}]" for name in schema["properties"]]


def regenerated(page: str) -> str:
    return _PART.sub(lambda found: f"{found[1]}{operations_table()}\n{found[2]}", page)


def encoded() -> str:
    return json.dumps(openapi(), indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    OPENAPI.write_text(encoded())
    PAGE.write_text(regenerated(PAGE.read_text()))
