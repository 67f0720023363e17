"""A process registers itself: it asks the leader to add it to the membership, in the place of the one before.

If the process before still answers at its address, the node was started twice, and the later process exits. Otherwise
it was stopped, has moved, or is cut off from here: then it stops serving once it reads the registration
(`protocol.registration`).
"""

from __future__ import annotations

import asyncio
import logging
from http import HTTPStatus
from typing import Any

import aiohttp

from replicator.address import Address
from replicator.errors import ConfigError, ReplicatorError
from replicator.intervals import REGISTRATION_RETRY_S, REGISTRATION_TIMEOUT_S, STATE_POLL_S
from replicator.node.health import NodeState
from replicator.node.node import Node
from replicator.node.outage_log import OutageLog
from replicator.protocol.registration import NOBODY
from replicator.records.types import Member
from replicator.server.identity import Identity, encode_incarnation

logger = logging.getLogger(__name__)


async def register(node: Node, identity: Identity, member: Member, password: str) -> None:
    """Repeat until the process is registered. A node that is removed later does not register again.

    Raises `ConfigError` if another process runs this node.
    """
    headers = {"Authorization": f"Bearer {password}"} if password else {}
    async with aiohttp.ClientSession(headers=headers, timeout=aiohttp.ClientTimeout(REGISTRATION_TIMEOUT_S)) as session:
        while node.state is not NodeState.SERVING:  # noqa: ASYNC110 (no single event signals the state)
            await asyncio.sleep(STATE_POLL_S)
        outage = OutageLog(logger, "asking the leader to register this node")
        while not node.is_registered:
            if node.state is NodeState.SERVING:
                await _check_for_duplicate(session, node, identity)
                node.make_eligible()
                await _request_registration(session, node, member, outage)
            await asyncio.sleep(REGISTRATION_RETRY_S)
    node.make_eligible()


async def _check_for_duplicate(session: aiohttp.ClientSession, node: Node, identity: Identity) -> None:
    registered = node.membership.get(identity.author.node)
    if registered is None or registered.incarnation == NOBODY:
        return
    if await _incarnation_at(session, registered.http) == encode_incarnation(registered.incarnation):
        raise ConfigError(
            f"{registered.node} of cluster {identity.cluster} is already running at {registered.http}. Give this node "
            "another --id, or stop the other process first to move the node here"
        )


async def _incarnation_at(session: aiohttp.ClientSession, http: Address) -> Any:
    """Of the process at this address. None if no node answers there."""
    try:
        async with session.get(http.url("/status")) as answer:
            return (await answer.json())["incarnation"]
    except (aiohttp.ClientError, TimeoutError, ValueError, KeyError, TypeError) as error:
        logger.info("no answer from the previous process of this node at %s: %s", http, error)
        return None


async def _request_registration(session: aiohttp.ClientSession, node: Node, member: Member, outage: OutageLog) -> None:
    leader = node.leading_member
    if node.leads or leader is None:
        return
    try:
        fields = {
            "node": member.node,
            "resp": str(member.resp),
            "http": str(member.http),
            "priority": member.priority,
            "incarnation": encode_incarnation(member.incarnation),
            "replaces": encode_incarnation(node.ask_to_register()),
            "timeline": node.status().timeline,
        }
        async with session.put(leader.http.url("/members"), json=fields) as answer:
            refusal = await _refusal(leader, answer)
        node.note_registration(refusal)
        if refusal:
            outage.failed(ReplicatorError(refusal))
        else:
            outage.ended()
    except (aiohttp.ClientError, TimeoutError, LookupError) as error:  # LookupError: an unknown charset
        outage.failed(ReplicatorError(f"{leader.node} does not answer at {leader.http}: {error}"))


async def _refusal(leader: Member, answer: aiohttp.ClientResponse) -> str:
    """Why the leader does not register this process; empty if it does, or if another one has registered meanwhile."""
    if answer.status in (HTTPStatus.ACCEPTED, HTTPStatus.CONFLICT):
        return ""
    if answer.status == HTTPStatus.UNAUTHORIZED:
        return f"this node has another password than {leader.node}: give all nodes the same one, and restart this one"
    return f"{leader.node} refused to register this node: {await answer.text(errors='replace')}"
