"""A node registers itself: it asks the leader to add it to the membership, or to update its addresses there.

If the node is registered at another address and a process still answers there as this node, the node was started twice,
and the later process exits. Otherwise the node has moved.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import replace
from typing import Any

import aiohttp

from replicator.address import Address
from replicator.errors import ConfigError
from replicator.intervals import REGISTRATION_RETRY_S, REGISTRATION_TIMEOUT_S, STATE_POLL_S
from replicator.node.health import NodeState
from replicator.node.node import Node
from replicator.records.types import Member
from replicator.server.identity import Identity

logger = logging.getLogger(__name__)


async def register(node: Node, identity: Identity, member: Member, password: str) -> None:
    """Repeat until the node is registered. A node that is removed later does not register again.

    Raises `ConfigError` if another process runs this node.
    """
    headers = {"Authorization": f"Bearer {password}"} if password else {}
    async with aiohttp.ClientSession(headers=headers, timeout=aiohttp.ClientTimeout(REGISTRATION_TIMEOUT_S)) as session:
        while node.state is not NodeState.SERVING:  # noqa: ASYNC110 (no single event signals the state)
            await asyncio.sleep(STATE_POLL_S)
        while not _is_registered(node, member):
            if node.state is NodeState.SERVING:
                await _check_for_duplicate(session, node, identity)
                node.make_eligible()
                await _request_registration(session, node, member)
            await asyncio.sleep(REGISTRATION_RETRY_S)
    node.make_eligible()


def _is_registered(node: Node, member: Member) -> bool:
    registered = node.membership.get(member.node)
    return registered is not None and replace(registered, mode=member.mode) == member


async def _check_for_duplicate(session: aiohttp.ClientSession, node: Node, identity: Identity) -> None:
    registered = node.membership.get(identity.author.node)
    if registered is None:
        return
    status = await _status(session, registered.http)
    if identity.is_duplicated_by(status, node.status().topic_id):
        raise ConfigError(
            f"{registered.node} of cluster {identity.cluster} is already running at {registered.http}. Give this node "
            "another --id, or stop the other process first to move the node here"
        )


async def _status(session: aiohttp.ClientSession, http: Address) -> Any:
    """None if there is no answer, or the answer is not JSON."""
    try:
        async with session.get(http.url("/status")) as answer:
            return await answer.json()
    except (aiohttp.ClientError, TimeoutError, ValueError) as error:
        logger.info("no answer from the previous address of this node, %s: %s", http, error)
        return None


async def _request_registration(session: aiohttp.ClientSession, node: Node, member: Member) -> None:
    leader = node.leading_member
    if node.leads or leader is None:
        return
    try:
        addresses = {"resp": str(member.resp), "http": str(member.http)}
        fields = {"node": member.node, **addresses, "priority": member.priority}
        async with session.put(leader.http.url("/members"), json=fields) as answer:
            if answer.status not in (202, 409):
                logger.warning("%s refused to register this node: %s", leader.node, await answer.text())
    except (aiohttp.ClientError, TimeoutError) as error:
        logger.info("the leader %s does not answer at %s: %s", leader.node, leader.http, error)
