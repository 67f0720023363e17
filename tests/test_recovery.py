"""The last requests of a simulation, which every node must grant."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

from replicator.position import BEFORE_LOG, NodeId, Token
from replicator.protocol.registration import registered
from replicator.records.types import WriteMode
from replicator.testing.faults import NO_FAULTS
from replicator.testing.recovery import refused_for_good
from replicator.testing.simulation import SimulationPlan, _Simulation

KILLED = 123
"""The incarnation of a process that was killed after it had asked to be registered."""


def test_a_process_that_is_replaced_by_a_killed_one_is_restarted(tmp_path: Path) -> None:
    lines: list[str] = []
    simulation = _Simulation(SimulationPlan(0, writes=WriteMode.ASYNC), tmp_path, lines.append)

    async def main() -> None:
        simulation.kafka.faults = NO_FAULTS
        for node in simulation.nodes:
            simulation.nemesis.start(node)
        await simulation.operator.set_up()
        leader = next(it.life.node for it in simulation.nodes if it.life is not None and it.life.node.leads)
        follower = next(it for it in simulation.nodes if it.life is not None and not it.life.node.leads)
        running = registered(leader.membership, NodeId(follower.name))
        leader.membership_changes.register(replace(follower.member, incarnation=KILLED), running)
        restart, token = simulation.nemesis.restart_replaced, Token("", BEFORE_LOG)
        assert await refused_for_good(simulation.nodes, simulation._new_client, token, restart) == []
        await asyncio.sleep(1)
        assert all(it.life is not None and it.life.node.is_registered for it in simulation.nodes)
        for node in simulation.nodes:
            await simulation.nemesis.kill(node)

    simulation.loop.run(main(), 50_000)
    assert any("another process runs as" in line for line in lines)
