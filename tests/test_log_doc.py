"""The consumer in docs/log.md reads what the nodes write."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import Any

from replicator.position import Offset
from replicator.protocol.log_state import LogState
from replicator.records.codec import load_schema
from replicator.records.types import VERSION
from replicator.server.keyspace import WritableKeyspace
from replicator.server.redis.dedup import Dedup
from tests.memory_cluster import MemoryCluster, submit, until

PAGE = Path(__file__).parents[1] / "docs" / "log.md"
ARCHITECTURE = Path(__file__).parents[1] / "docs" / "architecture.md"
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def consumer() -> dict[str, Any]:
    """The names that the program on the page defines. It does not run: its `__name__` is another."""
    [block] = BLOCK.findall(PAGE.read_text())
    names: dict[str, Any] = {"__name__": "consumer"}
    exec(compile(block, str(PAGE), "exec"), names)
    return names


async def test_the_consumer_prints_the_accepted_changes_of_kv(tmp_path: Path) -> None:
    cluster = MemoryCluster(tmp_path)
    try:
        await cluster.start("n1")
        leader = await cluster.leader()
        await leader.write(b"a", b"s1")
        copied = cluster.log.entries[-1].payload
        transaction = leader.node.begin()
        keyspace = WritableKeyspace(transaction, now_ms=0)
        keyspace.put_string(b"a", b"2", expires_at_ms=99_000_000_000_000)
        keyspace.put_fields(b"h", {b"name": b"value"})
        Dedup(transaction, time_ms=99_000_000_000_000).add(b"id", [b"SET"], b"+OK")
        await submit(leader.node, transaction)
        await asyncio.gather(*(leader.write(b"g%d" % number, b"sv") for number in range(3)))
        await leader.stop()
        cluster.log.append_now([b"of another program", b"", copied])
        again = await cluster.start("n1")
        await until(lambda: again.node.leads)
        await again.write(b"a", None)
        assert read_all(cluster) == [
            "b'a' b'': None -> Value(tag=b's', data=b'1', expires_at_ms=None)",
            "b'a' b'': Value(tag=b's', data=b'1', expires_at_ms=None) -> "
            "Value(tag=b's', data=b'2', expires_at_ms=99000000000000)",
            "b'h' b'fname': None -> Value(tag=b'f', data=b'value', expires_at_ms=None)",
            "b'h' b'': None -> Value(tag=b'h', data=b'\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x01', expires_at_ms=None)",
            *(f"b'g{number}' b'': None -> Value(tag=b's', data=b'v', expires_at_ms=None)" for number in range(3)),
            "b'a' b'': Value(tag=b's', data=b'2', expires_at_ms=99000000000000) -> None",
        ]
    finally:
        await cluster.stop()


def read_all(cluster: MemoryCluster) -> list[str]:
    """The lines that the consumer prints, which must end at the state of the nodes."""
    names, state, printed = consumer(), LogState(), []
    for offset, payload in cluster.log.entries:
        state, changes = names["read"](state, offset, payload)
        printed += names["lines"](changes)
        if offset == cluster.nodes["n1"].machine.state.offset:
            assert state == cluster.nodes["n1"].machine.state
    return printed


async def test_a_record_after_a_claim_has_the_seq_after_that_of_the_claim(tmp_path: Path) -> None:
    cluster, names, state = MemoryCluster(tmp_path), consumer(), LogState()
    try:
        await cluster.start("n1")
        await cluster.leader()
        await until(lambda: len(cluster.log.entries) > 1)
        claim, after = (names["codec"].decode(it.payload, b"").header for it in cluster.log.entries[:2])
        assert after.seq == claim.seq + 2
        assert names["read"](state, Offset(0), cluster.log.entries[0].payload)[0].seq == claim.seq + 1
    finally:
        await cluster.stop()


def test_the_pages_name_the_fields_and_bodies_of_the_schema() -> None:
    header, body = load_schema(f"record.v{VERSION}.avsc")["fields"]
    text = " ".join(ARCHITECTURE.read_text().split())
    fields = ", ".join(f"`{field['name']}`" for field in header["type"]["fields"])
    assert f"A header ({fields})" in text
    assert "one of ten bodies" in text
    assert len(body["type"]) == 10
