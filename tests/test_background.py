"""`run_with_background`, which runs the role of a node and its background tasks."""

from __future__ import annotations

import asyncio

from replicator.node.background import run_with_background


async def test_a_node_can_be_stopped_while_its_role_changes() -> None:
    ending, end = asyncio.Event(), asyncio.Event()

    async def role() -> None:
        """Ends at once."""

    async def helper() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ending.set()
            await end.wait()

    node = asyncio.create_task(run_with_background(role(), helper()))
    await ending.wait()
    node.cancel()
    end.set()
    await asyncio.wait([node])
    assert node.cancelled()
