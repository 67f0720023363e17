"""What the two halves of a node run in."""

from __future__ import annotations

import asyncio

from replicator.node.background import run_with_background


async def test_a_node_that_is_stopped_while_its_role_changes_stops() -> None:
    ending, end = asyncio.Event(), asyncio.Event()

    async def role() -> None:
        """Is over at once."""

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
