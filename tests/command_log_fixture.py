"""Three nodes in memory whose log has commands."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgpack
import pytest

from replicator.records.codec import RecordCodec
from replicator.records.types import Command, Replication, Write, singles
from tests.memory_cluster import until
from tests.redis_fixture import STEADY, ServerThread


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ServerThread]:
    server = ServerThread(tmp_path, nodes=3, timing=STEADY)
    set_replication(server, Replication.COMMAND)
    yield server
    server.close()


@pytest.fixture
def client(server: ServerThread) -> Any:
    return server.client(single_connection_client=True)


def set_replication(server: ServerThread, replication: Replication) -> None:
    async def change() -> None:
        node = server.node(0).node
        policy = replace(node.membership.policy, replicate=replication)
        node.membership_changes.set_policy(policy)
        await until(lambda: all(it.node.membership.policy == policy for it in server.cluster.nodes.values()))

    server.run(change())


def sql(client: Any, statement: str, *values: object) -> Any:
    packed = msgpack.packb(list(values))
    return msgpack.unpackb(client.execute_command("REPL.SQL", statement, "PARAMS", packed))["rows"]


def bodies(server: ServerThread) -> list[Any]:
    codec = RecordCodec()
    found = [it for entry in server.cluster.log.entries for it in singles(codec.decode(entry.payload, b"").body)]
    return [it for it in found if isinstance(it, (Write, Command))]


def check_equal(server: ServerThread) -> None:
    server.run(server.cluster.caught_up())
    metas = [it.machine.meta for it in server.cluster.nodes.values()]
    assert len({(it.digest, it.entries, it.state.offset) for it in metas}) == 1
    assert all(it.machine.recount() == (it.machine.meta.digest, it.machine.meta.entries)
               for it in server.cluster.nodes.values())  # fmt: skip
