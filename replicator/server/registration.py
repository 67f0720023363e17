"""A follower makes itself known: it asks the leader to put it, or its new address, into the membership.

A node that is known under another address has moved, unless it still answers there: then there are two of it, and the
one that came later ends.
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


async def enrol(node: Node, identity: Identity, member: Member, password: str) -> None:
    """For as long as the node runs. A node that was removed from the cluster while it ran does not come back.

    Raises `ConfigError` if another process runs as this node.
    """
    headers = {"Authorization": f"Bearer {password}"} if password else {}
    async with aiohttp.ClientSession(headers=headers, timeout=aiohttp.ClientTimeout(REGISTRATION_TIMEOUT_S)) as session:
        while node.state is not NodeState.SERVING:  # noqa: ASYNC110 (a state follows from many things)
            await asyncio.sleep(STATE_POLL_S)
        while not _is_known(node, member):
            if node.state is NodeState.SERVING:
                await _look_for_another(session, node, identity)
                node.make_eligible()
                await _ask_leader(session, node, member)
            await asyncio.sleep(REGISTRATION_RETRY_S)
    node.make_eligible()


def _is_known(node: Node, member: Member) -> bool:
    known = node.membership.get(member.node)
    return known is not None and replace(known, mode=member.mode) == member


async def _look_for_another(session: aiohttp.ClientSession, node: Node, identity: Identity) -> None:
    registered = node.membership.get(identity.author.node)
    if registered is None:
        return
    status = await _status(session, registered.http)
    if identity.is_claimed_by(status, node.status().topic_id):
        raise ConfigError(
            f"{registered.node} of cluster {identity.cluster} runs already: it answers at {registered.http}. Give this "
            "node another --id, or stop that one first if it has moved here"
        )


async def _status(session: aiohttp.ClientSession, http: Address) -> Any:
    """None if there is no answer, or one that is no JSON."""
    try:
        async with session.get(http.url("/status")) as answer:
            return await answer.json()
    except (aiohttp.ClientError, TimeoutError, ValueError) as error:
        logger.info("nothing answers where this node was registered, at %s: %s", http, error)
        return None


async def _ask_leader(session: aiohttp.ClientSession, node: Node, member: Member) -> None:
    leader = node.leading_member
    if node.leads or leader is None:
        return
    try:
        addresses = {"resp": str(member.resp), "http": str(member.http)}
        fields = {"node": member.node, **addresses, "priority": member.priority}
        async with session.put(leader.http.url("/members"), json=fields) as answer:
            if answer.status not in (202, 409):
                logger.warning("%s does not take this node in: %s", leader.node, await answer.text())
    except (aiohttp.ClientError, TimeoutError) as error:
        logger.info("%s does not answer at %s: %s", leader.node, leader.http, error)
