"""What people and their tools ask of a cluster: to take nodes in, and to let another one lead."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from typing import Any

from replicator.errors import ReplicatorError
from replicator.position import NodeId
from replicator.protocol.ack_policy import sync_members
from replicator.records.types import Mode, Policy, WaitFor, WriteMode
from replicator.testing.cluster import Running, SimNode
from replicator.testing.loop import SimLoop

_LOOK_S = 0.05
_MODES = (Mode.SYNC, Mode.SYNC, Mode.SYNC, Mode.ASYNC)


class Operator:
    def __init__(
        self,
        nodes: Sequence[SimNode],
        loop: SimLoop,
        rng: random.Random,
        writes: WriteMode,
        trace: Callable[[str], None],
    ) -> None:
        """`writes`: what writes wait for in this cluster, most of the time."""
        self._nodes = nodes
        self._loop = loop
        self._rng = rng
        self._trace = trace
        self._writes = writes

    async def enrol_all(self) -> None:
        """Until every node is a member."""
        while unknown := self._unknown():
            leader = self._leader()
            if leader is not None:
                for node in unknown:
                    self._ask(leader, f"{node.name}: joins", partial(_enrol, leader, node))
            await asyncio.sleep(_LOOK_S)

    async def set_up(self) -> None:
        """Enrol all, make some sync, and let writes wait for them, if this is such a cluster."""
        await self.enrol_all()
        if self._writes is WriteMode.ASYNC:
            return
        for node in self._nodes:
            self.set_mode(node, self._rng.choice(_MODES))
        for _ in range(40):
            leader = self._leader()
            if leader is not None and sync_members(leader.node.membership):
                self._set_policy(Policy(self._writes))
                return
            await asyncio.sleep(_LOOK_S)

    def change_mode(self, node: SimNode) -> None:
        self.set_mode(node, self._rng.choice(_MODES))

    def change_policy(self) -> None:
        writes = self._rng.choice((self._writes, self._rng.choice(list(WriteMode))))
        if writes is WriteMode.SYNC and self._rng.random() < 0.5:
            self._set_policy(Policy(writes, WaitFor.QUORUM, self._rng.choice((1, 2))))
        else:
            self._set_policy(Policy(writes))

    def set_mode(self, node: SimNode, mode: Mode) -> None:
        leader = self._leader()
        if leader is not None:
            self._ask(leader, f"{node.name}: becomes {mode}", partial(_set_mode, leader, NodeId(node.name), mode))

    def _set_policy(self, policy: Policy) -> None:
        leader = self._leader()
        if leader is not None:
            what = f"writes are {policy.write} {policy.wait_for} {policy.quorum or ''}".rstrip()
            self._ask(leader, what, partial(_set_policy, leader, policy))

    def hand_over(self, node: SimNode) -> None:
        """`node` is to lead; whoever leads is asked."""
        leader = self._leader()
        if leader is not None:
            promote = partial(leader.node.transfer.promote, NodeId(node.name), force=False)
            self._ask(leader, f"{node.name}: leads on request", promote)

    def force(self, node: SimNode) -> None:
        """The leader is taken for gone, rightly or not."""
        if node.life is not None:
            self._ask(
                node.life,
                f"{node.name}: leads by force",
                partial(node.life.node.transfer.promote, NodeId(node.name), force=True),
            )

    def _leader(self) -> Running | None:
        return next((it.life for it in self._nodes if it.life is not None and it.life.node.leads), None)

    def _unknown(self) -> list[SimNode]:
        leader = self._leader()
        if leader is None:
            return list(self._nodes)
        return [it for it in self._nodes if leader.node.membership.get(NodeId(it.name)) is None]

    def _ask(self, asked: Running, what: str, errand: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """In the process of the node that is asked, with which it dies."""

        async def carry_out() -> None:
            try:
                await errand()
            except ReplicatorError as error:
                self._trace(f"{what}: no, {error}")
            else:
                self._trace(f"{what}: yes")

        task = self._loop.create_task(carry_out(), context=asked.process.context)
        asked.errands.add(task)
        task.add_done_callback(asked.errands.discard)


async def _set_mode(leader: Running, node: NodeId, mode: Mode) -> None:
    leader.node.membership_changes.set_mode(node, mode)


async def _set_policy(leader: Running, policy: Policy) -> None:
    leader.node.membership_changes.set_policy(policy)


async def _enrol(leader: Running, node: SimNode) -> None:
    leader.node.membership_changes.add_member(node.member)
