"""A follower makes itself known: it asks the leader to put it, or its new address, into the membership."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import replace

import aiohttp

from replicator.node.node import Node, State
from replicator.records.types import Member

log = logging.getLogger(__name__)

RETRY_S = 0.2
REQUEST_S = 5


async def enrol(node: Node, member: Member, password: str) -> None:
    """For as long as the node runs. A node that was removed from the cluster while it ran does not come back."""
    headers = {"Authorization": f"Bearer {password}"} if password else {}
    async with aiohttp.ClientSession(headers=headers, timeout=aiohttp.ClientTimeout(REQUEST_S)) as session:
        while not _is_known(node, member):
            await asyncio.sleep(RETRY_S)
            leader = node.leading_member
            if node.leads or node.state is not State.SERVING or leader is None:
                continue
            try:
                fields = {"node": member.node, "resp": member.resp, "http": member.http, "priority": member.priority}
                async with session.put(f"http://{leader.http}/members", json=fields) as answer:
                    if answer.status not in (202, 409):
                        log.warning("%s does not take this node in: %s", leader.node, await answer.text())
            except (aiohttp.ClientError, TimeoutError) as error:
                log.info("%s does not answer at %s: %s", leader.node, leader.http, error)


def _is_known(node: Node, member: Member) -> bool:
    known = node.membership.get(member.node)
    return known is not None and replace(known, mode=member.mode) == member
