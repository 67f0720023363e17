"""Reads the body of a request."""

from __future__ import annotations

import asyncio
from typing import Any

from aiohttp import web

from replicator.errors import BadRequest
from replicator.intervals import HTTP_TIMEOUT_S


async def read_json(request: web.Request) -> dict[str, Any]:
    """Raises `BadRequest`, and `HTTPRequestTimeout` if the body does not arrive in time."""
    try:
        async with asyncio.timeout(HTTP_TIMEOUT_S):
            fields = await request.json()
    except TimeoutError:
        raise web.HTTPRequestTimeout from None
    except (ValueError, LookupError, RecursionError) as error:  # also of an unknown charset
        raise BadRequest("the body is not valid JSON") from error
    if not isinstance(fields, dict):
        raise BadRequest("the body is not a JSON object")
    return fields
