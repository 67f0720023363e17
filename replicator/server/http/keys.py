"""Reads of one key over HTTP, at a read level (`protocol.levels`).

    GET /keys/KEY?level=linearizable
    GET /keys/KEY?level=bounded+500+10
    GET /keys/KEY?level=session+TOKEN

answers {"key", "type": "string" | "hash", "value", "level", "token"}, or 404 if the key does not exist. Bytes that are
not valid UTF-8 are escaped with backslashes. The default is a linearizable read at the leader, an eventual one at a
follower.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from aiohttp import web

from replicator.errors import BadRequest
from replicator.limits import MAX_JSON_FIELDS
from replicator.node.node import Node
from replicator.position import BEFORE_LOG
from replicator.protocol.levels import Level, encode_token, parse_level
from replicator.server.keyspace import TYPES, Keyspace
from replicator.store.rows import HASH, STRING
from replicator.store.view import View


def read_routes(node: Callable[[], Node]) -> list[web.RouteDef]:
    """`node` raises `Loading` while the node is starting."""

    async def get(request: web.Request) -> web.Response:
        level = _level(request.query.get("level", ""))
        key, asked = request.match_info["key"], node()
        found = await asked.reads.read(level, lambda view: _find(view, asked.now_ms(), key.encode()))
        token = encode_token(asked.token(BEFORE_LOG))
        answer = {"key": key, "level": str(level or "default"), "token": token}
        if found is None:
            return web.json_response({**answer, "error": f"the key {key} does not exist"}, status=404)
        return web.json_response({**answer, **found})

    return [web.get("/keys/{key:.+}", get)]


def _level(text: str) -> Level | None:
    """Raises `BadRequest`."""
    words = text.split()
    if not words:
        return None
    level, used = parse_level(words)
    if used < len(words):
        raise BadRequest(f"level={text[:80]!r} has unexpected words after {str(level)!r}: give one read level")
    return level


def _find(view: View, now_ms: int, row: bytes) -> dict[str, Any] | None:
    keyspace = Keyspace(view, now_ms)
    header = keyspace.header(row)
    if header is None:
        return None
    if header.tag == HASH and keyspace.hash_size(row) > MAX_JSON_FIELDS:
        raise BadRequest(f"a hash of more than {MAX_JSON_FIELDS} fields is not sent as JSON: use HSCAN or HGETALL")
    kind = TYPES[header.tag].decode()
    if header.tag == STRING:
        return {"type": kind, "value": _text(header.data)}
    return {"type": kind, "value": {_text(name): _text(data) for name, data in keyspace.hash_fields(row)}}


def _text(data: bytes) -> str:
    return data.decode(errors="backslashreplace")
