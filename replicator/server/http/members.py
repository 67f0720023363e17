"""The membership, the write policy, the timing and the leadership of the cluster, over HTTP.

    PUT    /members           {"node", "resp", "http", "priority"}: add a member, or update its addresses;
                              from its process also "incarnation" and "replaces" (`protocol.registration`), and
                              the "timeline" of its store
    PUT    /members/ID/mode   {"mode": "async" | "sync" | "snapshotter"}
    DELETE /members/ID        remove a member
    PUT    /policy            {"write": "async" | "sync" | "suspend" | "invalidate",
                               "wait_for": "all" | "quorum" | "named", "quorum": K, "named": [ID, …],
                               "replicate": "row" | "command" | "mixed"}
    PUT    /timing            {"lease_ms": MS, …}: change these settings of the timing that all nodes follow
    POST   /promote           {"node", "force"}: transfer leadership to a node (with force: send it to that node)

All but a forced promotion are sent to the leader. All answer 202: a change takes effect with its record in the log.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from enum import StrEnum
from typing import Any, TypeVar

from aiohttp import web

from replicator.address import Address
from replicator.config import checked_name
from replicator.errors import BadRequest
from replicator.node.node import Node
from replicator.position import NodeId
from replicator.records.types import Member, Mode, Policy, Replication, WaitFor, WriteMode
from replicator.server.http.body import read_json
from replicator.server.identity import decode_incarnation

E = TypeVar("E", bound=StrEnum)

SETTABLE_MODES = (Mode.ASYNC, Mode.SYNC, Mode.SNAPSHOTTER)  # `joining` is set by the leader only


def member_routes(node: Callable[[], Node]) -> list[web.RouteDef]:
    """`node` raises `Loading` while the node is starting."""

    async def add_member(request: web.Request) -> web.Response:
        fields = await read_json(request)
        _check_timeline(fields, node())
        member, changes = _member(fields), node().membership_changes
        if "incarnation" in fields:
            changes.register(replace(member, incarnation=_incarnation(fields)), _incarnation(fields, "replaces"))
        else:
            changes.add_member(member)
        return _accepted(member.node)

    async def set_mode(request: web.Request) -> web.Response:
        mode = _choice("mode", (await read_json(request)).get("mode"), SETTABLE_MODES)
        member = NodeId(request.match_info["node"])
        node().membership_changes.set_mode(member, mode)
        return _accepted(member)

    async def remove_member(request: web.Request) -> web.Response:
        member = NodeId(request.match_info["node"])
        node().membership_changes.remove_member(member)
        return _accepted(member)

    async def set_policy(request: web.Request) -> web.Response:
        policy = _policy(await read_json(request))
        node().membership_changes.set_policy(policy)
        return _accepted(policy.write)

    async def change_timing(request: web.Request) -> web.Response:
        settings = await read_json(request)
        for name, value in settings.items():
            if type(value) is not int:
                raise BadRequest(f"{name} is {value!r}, but must be an integer")
        node().timing_changes.change(settings)
        return _accepted(", ".join(settings))

    async def promote(request: web.Request) -> web.Response:
        fields = await read_json(request)
        name, force = fields.get("node"), fields.get("force", False)
        if not isinstance(name, str) or not isinstance(force, bool):
            raise BadRequest('send {"node": ID, "force": true or false}')
        await node().transfer.promote(NodeId(name), force=force)
        return _accepted(name)

    return [
        web.put("/members", add_member),
        web.put("/members/{node}/mode", set_mode),
        web.delete("/members/{node}", remove_member),
        web.put("/policy", set_policy),
        web.put("/timing", change_timing),
        web.post("/promote", promote),
    ]


def _accepted(what: str) -> web.Response:
    return web.json_response({"accepted": what}, status=202)


def _member(fields: dict[str, Any]) -> Member:
    """Raises `BadRequest`, `ConfigError`."""
    try:
        name, priority = checked_name("node", str(fields["node"])), int(fields["priority"])
        resp, http = (Address.parse(str(fields[key])) for key in ("resp", "http"))
    except (KeyError, TypeError, ValueError) as error:
        raise BadRequest(f'send {{"node", "resp", "http", "priority"}}: {error!r}') from error
    return Member(NodeId(name), Mode.ASYNC, resp, http, priority)


def _check_timeline(fields: dict[str, Any], node: Node) -> None:
    """Raises `BadRequest` for a process of the cluster from which this one was restored."""
    own, theirs = node.status().timeline, fields.get("timeline", "")
    if theirs and theirs != own:
        raise BadRequest(
            f"the store of {fields.get('node')} is of timeline {theirs}, and this cluster is on timeline {own}: it was "
            "restored to an earlier point, or is another cluster"
        )


def _incarnation(fields: dict[str, Any], name: str = "incarnation") -> int:
    """Raises `BadRequest`."""
    try:
        incarnation = decode_incarnation(fields[name])
    except (KeyError, TypeError, ValueError) as error:
        raise BadRequest(f"{name} must be 16 hexadecimal digits: {error!r}") from error
    if not 0 <= incarnation < 1 << 63:
        raise BadRequest(f"{name} must be 16 hexadecimal digits of at most 63 bits")
    return incarnation


def _policy(fields: dict[str, Any]) -> Policy:
    """Raises `BadRequest`."""
    quorum, named = fields.get("quorum", 0), fields.get("named", [])
    if type(quorum) is not int or not isinstance(named, list) or not all(isinstance(it, str) for it in named):
        raise BadRequest("quorum must be an integer, and named a list of node ids")
    return Policy(
        write=_choice("write", fields.get("write"), tuple(WriteMode)),
        wait_for=_choice("wait_for", fields.get("wait_for", "all"), tuple(WaitFor)),
        quorum=quorum,
        named=tuple(map(NodeId, named)),
        replicate=_choice("replicate", fields.get("replicate", "row"), tuple(Replication)),
    )


def _choice(name: str, value: Any, choices: tuple[E, ...]) -> E:
    for choice in choices:
        if choice.value == value:
            return choice
    raise BadRequest(f"{name} is {value!r}, but must be one of {', '.join(choice.value for choice in choices)}")
