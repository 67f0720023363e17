"""Faults of the compose stack under load: nothing that was acknowledged is lost, and the histories of all clients are
consistent with their read levels.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractContextManager, asynccontextmanager

import pytest

from tests.containers.stack import BROKERS, CLUSTER, NODES, STACK_WAIT_S, Stack
from tests.process_cluster import wait_for
from tests.recorded_checks import canonical_of, violations
from tests.recorder import Recorder

pytestmark = [pytest.mark.containers, pytest.mark.timeout(600)]

WRITES, READS = 40, 5  # to be answered after each fault


@asynccontextmanager
async def recorded(stack: Stack, name: str, capsys: pytest.CaptureFixture[str]) -> AsyncIterator[Recorder]:
    """Clients at all nodes, whose history is checked against the log at the end."""
    leader = await asyncio.to_thread(stack.leader)
    async with Recorder(name, stack.ports, leader, keys=3, writers=3, readers=4, password=stack.password) as recorder:
        await recorder.wait_for_more(WRITES, READS)
        yield recorder
        await recorder.wait_for_more(WRITES, READS)
    canonical = await canonical_of(stack.bootstrap, CLUSTER)
    with capsys.disabled():
        print(f"\n{name}, OK/REJECTED/UNKNOWN: {recorder}")
    assert not violations(recorder.history, canonical)
    await asyncio.to_thread(wait_for, lambda: same_digests(stack), STACK_WAIT_S)


@asynccontextmanager
async def during(fault: AbstractContextManager[None]) -> AsyncIterator[None]:
    """Commands of docker must not hold up the clients."""
    await asyncio.to_thread(fault.__enter__)
    try:
        yield
    finally:
        await asyncio.to_thread(fault.__exit__, None, None, None)


def same_digests(stack: Stack) -> bool:
    return len({it["digest"] for it in stack.status("n1")["nodes"] if it["id"] in NODES}) == 1


def up(stack: Stack, *services: str) -> str:
    return stack.compose("up", "--detach", "--wait", "--no-deps", *services)


async def test_a_broker_is_killed(stack: Stack, capsys: pytest.CaptureFixture[str]) -> None:
    async with recorded(stack, "broker killed", capsys) as recorder:
        for broker in BROKERS:
            await asyncio.to_thread(stack.compose, "kill", broker)
            await recorder.wait_for_more(WRITES, READS)
            await asyncio.to_thread(up, stack, broker)


@pytest.mark.parametrize("fault", [Stack.paused, Stack.cut_off])
async def test_the_container_of_the_leader_is_paused_or_cut_off(
    stack: Stack, capsys: pytest.CaptureFixture[str], fault: Callable[[Stack, str], AbstractContextManager[None]]
) -> None:
    async with recorded(stack, f"leader {fault.__name__}", capsys):
        leader = await asyncio.to_thread(stack.leader)
        others = tuple(it for it in NODES if it != leader)
        async with during(fault(stack, leader)):
            assert await asyncio.to_thread(stack.leader, others) != leader


async def test_a_follower_is_cut_off(stack: Stack, capsys: pytest.CaptureFixture[str]) -> None:
    async with recorded(stack, "follower cut off", capsys) as recorder:
        leader = await asyncio.to_thread(stack.leader)
        follower = next(it for it in NODES if it != leader)
        async with during(stack.cut_off(follower)):
            before = recorder.answered()["write"]
            await asyncio.to_thread(wait_for, lambda: recorder.answered()["write"] >= before + WRITES, STACK_WAIT_S)


async def test_everything_is_restarted_one_after_the_other(stack: Stack, capsys: pytest.CaptureFixture[str]) -> None:
    async with recorded(stack, "rolling restart", capsys) as recorder:
        for service in (*BROKERS, *NODES, "snapshotter"):
            await asyncio.to_thread(stack.compose, "restart", "--no-deps", service)
            await asyncio.to_thread(up, stack, service)
            await recorder.wait_for_more(WRITES // 4, 1)


def test_a_node_that_is_stopped_ends_by_itself(stack: Stack) -> None:
    node = stack.leader()
    stack.compose("stop", node)
    assert stack.docker("inspect", "--format", "{{.State.ExitCode}}", stack.container(node)).strip() == "0"
    up(stack, node)


def test_the_sink_has_all_rows(stack: Stack) -> None:
    leader = stack.leader()
    stack.ask(leader, "SET", "sink:last", "written")
    query = "SELECT value FROM kv WHERE key = 'sink:last'"

    def rows() -> bool:
        asked = ("psql", "--username=replicator", "--tuples-only", "--no-align", f"--command={query}")
        return stack.execute("postgres", *asked).strip() == "written"

    wait_for(rows, STACK_WAIT_S)


def test_prometheus_scrapes_all_nodes(stack: Stack) -> None:
    def scraped() -> bool:
        targets = json.loads(stack.execute("n1", "python3", "-c", _TARGETS))["data"]["activeTargets"]
        expected = {f"{name}:8001": "up" for name in (*NODES, "snapshotter", "sink")}
        return {it["labels"]["instance"]: it["health"] for it in targets} == expected

    wait_for(scraped, STACK_WAIT_S)


_TARGETS = "import urllib.request as r; print(r.urlopen('http://prometheus:9090/api/v1/targets').read().decode())"
