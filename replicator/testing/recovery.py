"""Once the faults have ended, every node that serves answers reads of every level, and a leader takes writes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from typing import Any

from replicator.node.health import NodeState
from replicator.position import Token
from replicator.protocol.levels import EVENTUAL, LINEARIZABLE, Level, LevelKind
from replicator.testing.clients import SimClient
from replicator.testing.cluster import SimNode
from replicator.testing.history import Outcome, Request

RECOVERY_S = 5.0  # virtual: for each request
_PAUSE_S = 0.1
_BOUND_MS = 500

Restart = Callable[[], Coroutine[Any, Any, None]]


async def refused_for_good(
    nodes: Sequence[SimNode], new_client: Callable[[str], SimClient], token: Token, restart_replaced: Restart
) -> list[str]:
    """Repeat each request until it is granted. Returns what is still refused after `RECOVERY_S`.

    The write comes last, as it may resume what else would be refused for good. `token`: of a client.
    `restart_replaced` is called between the attempts: a registration that a process requested before it was killed may
    be committed only now, and stops the process that runs.
    """
    serving = [it for it in nodes if it.life is not None and it.life.node.state is NodeState.SERVING]
    reading = [_read_at_every_level(new_client(f"last.{it.name}"), it, token, restart_replaced) for it in serving]
    refused = [it for refusals in await asyncio.gather(*reading) for it in refusals]
    return refused + await _repeat(new_client("last").write_any, restart_replaced)


async def _read_at_every_level(client: SimClient, node: SimNode, token: Token, restart_replaced: Restart) -> list[str]:
    levels = [EVENTUAL, LINEARIZABLE, Level(LevelKind.BOUNDED, _BOUND_MS)]
    if token.timeline:
        levels.append(Level(LevelKind.SESSION, token=token))
    return [it for level in levels for it in await _repeat(partial(client.read_all, node, level), restart_replaced)]


async def _repeat(ask: Callable[[], Coroutine[Any, Any, Request | None]], restart_replaced: Restart) -> list[str]:
    """Until it succeeds. Returns how it was refused, if it never does."""
    loop = asyncio.get_running_loop()
    until_s = loop.time() + RECOVERY_S
    while True:
        request = await ask()
        if request is not None and request.outcome is Outcome.OK:
            return []
        if loop.time() > until_s:
            return [f"refused for {RECOVERY_S} s without faults: {request or 'a write, as there is no leader'}"]
        await restart_replaced()
        await asyncio.sleep(_PAUSE_S)
