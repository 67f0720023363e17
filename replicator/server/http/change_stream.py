"""The change stream of the cluster, over HTTP.

GET    /stream   its settings and its progress
PUT    /stream   {"enabled": true | false, options of a new one…}: enable it, or stop publishing
DELETE /stream   delete the published changes, and the state of the stream
"""

from __future__ import annotations

from collections.abc import Callable

from aiohttp import web

from replicator.errors import BadRequest
from replicator.node.change_stream import ChangeStreamControl
from replicator.server.http.body import read_json


def stream_routes(control: Callable[[], ChangeStreamControl]) -> list[web.RouteDef]:
    """`control` raises `Loading` while the node is starting."""

    async def describe(request: web.Request) -> web.Response:
        return web.json_response(await control().describe())

    async def change(request: web.Request) -> web.Response:
        fields = await read_json(request)
        enabled = fields.pop("enabled", None)
        if type(enabled) is not bool or (fields and not enabled):
            raise BadRequest('send {"enabled": true} with options, or {"enabled": false}')
        return web.json_response(await (control().enable(fields) if enabled else control().disable()))

    async def reset(request: web.Request) -> web.Response:
        await control().reset()
        return web.json_response(await control().describe())

    return [web.get("/stream", describe), web.put("/stream", change), web.delete("/stream", reset)]
