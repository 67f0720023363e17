"""What people and their tools ask of a cluster: to take nodes in, and to let another one lead."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from replicator.errors import ReplicatorError
from replicator.position import NodeId
from replicator.testing.cluster import Running, SimNode
from replicator.testing.loop import SimLoop

_LOOK_S = 0.05


class Operator:
    def __init__(self, nodes: Sequence[SimNode], loop: SimLoop, trace: Callable[[str], None]) -> None:
        self._nodes = nodes
        self._loop = loop
        self._trace = trace

    async def enrol_all(self) -> None:
        """Until every node is a member."""
        while unknown := self._unknown():
            leader = self._leader()
            if leader is not None:
                for node in unknown:
                    self._ask(leader, f"{node.name}: joins", _enrol(leader, node))
            await asyncio.sleep(_LOOK_S)

    def hand_over(self, node: SimNode) -> None:
        """`node` is to lead; whoever leads is asked."""
        leader = self._leader()
        if leader is not None:
            self._ask(leader, f"{node.name}: leads on request", leader.node.promote(NodeId(node.name), force=False))

    def force(self, node: SimNode) -> None:
        """The leader is taken for gone, rightly or not."""
        if node.life is not None:
            self._ask(node.life, f"{node.name}: leads by force", node.life.node.promote(NodeId(node.name), force=True))

    def _leader(self) -> Running | None:
        return next((it.life for it in self._nodes if it.life is not None and it.life.node.leads), None)

    def _unknown(self) -> list[SimNode]:
        leader = self._leader()
        if leader is None:
            return list(self._nodes)
        return [it for it in self._nodes if leader.node.membership.get(NodeId(it.name)) is None]

    def _ask(self, asked: Running, what: str, errand: Coroutine[Any, Any, None]) -> None:
        """In the process of the node that is asked, with which it dies."""

        async def carry_out() -> None:
            try:
                await errand
            except ReplicatorError as error:
                self._trace(f"{what}: no, {error}")
            else:
                self._trace(f"{what}: yes")

        task = self._loop.create_task(carry_out(), context=asked.process.context)
        asked.errands.add(task)
        task.add_done_callback(asked.errands.discard)


async def _enrol(leader: Running, node: SimNode) -> None:
    leader.node.enrol(node.member)
