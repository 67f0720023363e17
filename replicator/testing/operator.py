"""Administrative requests to a cluster: adding members, setting modes and policies, transferring leadership."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import asdict, replace
from functools import partial
from typing import Any

from replicator.errors import ReplicatorError
from replicator.position import NodeId
from replicator.protocol.ack_policy import sync_members
from replicator.records.types import Mode, Policy, Replication, Timing, WaitFor, WriteMode
from replicator.testing.cluster import Running, SimNode
from replicator.testing.loop import SimLoop
from replicator.testing.timings import LONG_LEASES, draw_change

_POLL_S = 0.05
_REPLICATION_S = 0.7  # virtual: mean time between two changes
_REPLICATIONS = (Replication.COMMAND, Replication.COMMAND, Replication.MIXED, Replication.ROW)
_MODES = (Mode.SYNC, Mode.SYNC, Mode.SYNC, Mode.ASYNC)


class Operator:
    def __init__(
        self,
        nodes: Sequence[SimNode],
        loop: SimLoop,
        rng: random.Random,
        writes: WriteMode,
        trace: Callable[[str], None],
        replication: random.Random | None = None,
    ) -> None:
        """`writes`: the write mode of this cluster for most of the time.

        `replication`: draws what the log gets of a transaction; None: its changes.
        """
        self._nodes = nodes
        self._loop = loop
        self._rng = rng
        self._trace = trace
        self._writes = writes
        self._replication = replication
        self._replicate = Replication.ROW if replication is None else replication.choice(_REPLICATIONS)

    async def set_up(self) -> None:
        """Once all nodes have registered: unless writes are async, make some members sync, and set the policy."""
        while self._not_members():  # noqa: ASYNC110 (virtual time)
            await asyncio.sleep(_POLL_S)
        if self._writes is WriteMode.ASYNC:
            if self._replication is not None:
                self._set_policy(Policy())
            return
        for node in self._nodes:
            self.set_mode(node, self._rng.choice(_MODES))
        for _ in range(40):
            leader = self._leader()
            if leader is not None and sync_members(leader.node.membership):
                self._set_policy(Policy(self._writes))
                return
            await asyncio.sleep(_POLL_S)

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
            self._ask(leader, f"{node.name}: set mode {mode}", partial(_set_mode, leader, NodeId(node.name), mode))

    async def change_replication(self) -> None:
        """Now and then, until cancelled."""
        assert self._replication is not None
        while True:
            await asyncio.sleep(self._replication.expovariate(1 / _REPLICATION_S))
            self._replicate = self._replication.choice(_REPLICATIONS)
            leader = self._leader()
            if leader is not None:
                self._set_policy(leader.node.membership.policy)

    def _set_policy(self, policy: Policy) -> None:
        leader = self._leader()
        if leader is not None:
            what = f"set policy {policy.write} {policy.wait_for} {policy.quorum or ''}".rstrip()
            if self._replication is not None:
                policy = replace(policy, replicate=self._replicate)
                what = f"{what}, replicate {self._replicate}"
            self._ask(leader, what, partial(_set_policy, leader, policy))

    def lengthen_leases(self) -> None:
        self._change_timing(lambda present: LONG_LEASES)

    def change_timing(self) -> None:
        """To shorter leases, if they are long."""
        self._change_timing(lambda present: draw_change(self._rng, present))

    def _change_timing(self, draw: Callable[[Timing], Timing]) -> None:
        leader = self._leader()
        if leader is not None:
            timing = draw(leader.node.timing)
            self._ask(leader, f"change to {timing}", partial(_change_timing, leader, timing))

    def transfer_leadership(self, node: SimNode) -> None:
        """Ask the leader to transfer leadership to `node`."""
        leader = self._leader()
        if leader is not None:
            promote = partial(leader.node.transfer.promote, NodeId(node.name), force=False)
            self._ask(leader, f"{node.name}: transfer leadership", promote)

    def force_promotion(self, node: SimNode) -> None:
        """Promote `node` as if the leader were dead, whether it is or not."""
        if node.life is not None:
            self._ask(
                node.life,
                f"{node.name}: forced promotion",
                partial(node.life.node.transfer.promote, NodeId(node.name), force=True),
            )

    def _leader(self) -> Running | None:
        return next((life for it in self._nodes for life in it.lives if life.node.leads), None)

    def _not_members(self) -> list[SimNode]:
        leader = self._leader()
        if leader is None:
            return list(self._nodes)
        return [it for it in self._nodes if leader.node.membership.get(NodeId(it.name)) is None]

    def _ask(self, asked: Running, what: str, request: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Run the request in the process of `asked`; it is cancelled if that process is killed."""

        async def run() -> None:
            try:
                await request()
            except ReplicatorError as error:
                self._trace(f"{what}: rejected: {error}")
            else:
                self._trace(f"{what}: accepted")

        task = self._loop.create_task(run(), context=asked.process.context)
        asked.requests.add(task)
        task.add_done_callback(asked.requests.discard)


async def _set_mode(leader: Running, node: NodeId, mode: Mode) -> None:
    leader.node.membership_changes.set_mode(node, mode)


async def _set_policy(leader: Running, policy: Policy) -> None:
    leader.node.membership_changes.set_policy(policy)


async def _change_timing(leader: Running, timing: Timing) -> None:
    leader.node.timing_changes.change(asdict(timing))
