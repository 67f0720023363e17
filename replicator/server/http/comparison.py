"""The comparison of all stores at one checkpoint (`node.store_comparison`), over HTTP: for `replicator verify`.

    PUT    /comparison              {"id"}: keep the state of this node at the next checkpoints
    POST   /comparison/checkpoint   {"id"}: append a checkpoint; at the leader
    POST   /comparison/state        {"id", "offset"}: whether this node has its state at that checkpoint
    POST   /comparison/split        {"id", "offset", "start", "stop", "entries"}: so large ranges, and digests
    POST   /comparison/ranges       {"id", "offset", "bounds"}: digests of the ranges between each two bounds
    POST   /comparison/entries      {"id", "offset", "start", "stop", "limit"}: the digest of each entry of a range
    DELETE /comparison/ID           end it

Keys are store keys in hexadecimal digits; an empty `stop`, or last bound, means the end of the store.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from aiohttp import web

from replicator.errors import BadRequest
from replicator.limits import MAX_KEY_BYTES
from replicator.node.node import Node
from replicator.node.store_comparison import END
from replicator.position import Offset
from replicator.server.http.body import read_json


def comparison_routes(node: Callable[[], Node]) -> list[web.RouteDef]:
    """`node` raises `Loading` while the node is starting."""

    async def begin(request: web.Request) -> web.Response:
        id = _id(await read_json(request))
        node().comparison.begin(id)
        return web.json_response({"accepted": id}, status=202)

    async def checkpoint(request: web.Request) -> web.Response:
        fields = await read_json(request)
        return web.json_response({"offset": await node().comparison.checkpoint(_id(fields))})

    async def state(request: web.Request) -> web.Response:
        fields = await read_json(request)
        kept = await node().comparison.state(_id(fields), _offset(fields))
        if kept is None:
            return web.json_response({"applied": False})
        return web.json_response({"applied": True, "digest": f"{kept.digest:032x}", "entries": kept.entries})

    async def split(request: web.Request) -> web.Response:
        fields = await read_json(request)
        start, stop = _key(fields, "start"), _key(fields, "stop")
        ranges = await node().comparison.split(_id(fields), _offset(fields), start, stop, _count(fields, "entries"))
        answer = [
            {
                "start": it.start.hex(),
                "stop": "" if it.stop == END else it.stop.hex(),
                "digest": f"{it.digest.digest:032x}",
                "entries": it.digest.entries,
            }
            for it in ranges
        ]
        return web.json_response({"ranges": answer})

    async def digests(request: web.Request) -> web.Response:
        fields = await read_json(request)
        bounds = fields.get("bounds")
        if not isinstance(bounds, list) or len(bounds) < 2:
            raise BadRequest("bounds must be a list of at least two keys")
        keys = [_key({"bounds": it}, "bounds") for it in bounds]
        found = await node().comparison.digests(_id(fields), _offset(fields), keys)
        answer = [{"digest": f"{it.digest:032x}", "entries": it.entries, "is_complete": it.is_complete} for it in found]
        return web.json_response({"ranges": answer})

    async def entries(request: web.Request) -> web.Response:
        fields = await read_json(request)
        start, stop = _key(fields, "start"), _key(fields, "stop")
        found, are_all = await node().comparison.entries(
            _id(fields), _offset(fields), start, stop, _count(fields, "limit")
        )
        answer = [{"key": it.key.hex(), "digest": f"{it.digest:032x}"} for it in found]
        return web.json_response({"entries": answer, "are_all": are_all})

    async def end(request: web.Request) -> web.Response:
        id = request.match_info["id"]
        node().comparison.end(id)
        return web.json_response({"accepted": id}, status=202)

    return [
        web.put("/comparison", begin),
        web.post("/comparison/checkpoint", checkpoint),
        web.post("/comparison/state", state),
        web.post("/comparison/split", split),
        web.post("/comparison/ranges", digests),
        web.post("/comparison/entries", entries),
        web.delete("/comparison/{id}", end),
    ]


def _id(fields: dict[str, Any]) -> str:
    """Raises `BadRequest`, as the next three."""
    id = fields.get("id")
    if not isinstance(id, str) or not 1 <= len(id) <= 64:
        raise BadRequest("id must be a string of 1 to 64 characters")
    return id


def _offset(fields: dict[str, Any]) -> Offset:
    offset = fields.get("offset")
    if type(offset) is not int or offset < 0:
        raise BadRequest("offset must be that of a checkpoint")
    return Offset(offset)


def _count(fields: dict[str, Any], name: str) -> int:
    count = fields.get(name)
    if type(count) is not int or count < 1:
        raise BadRequest(f"{name} must be an integer above 0")
    return count


def _key(fields: dict[str, Any], name: str) -> bytes:
    key = fields.get(name)
    try:
        if isinstance(key, str) and len(key) <= 2 * (MAX_KEY_BYTES + 1):  # also what follows the longest key
            return bytes.fromhex(key)
    except ValueError:
        pass
    raise BadRequest(f"{name} must be a store key in hexadecimal digits")
