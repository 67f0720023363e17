"""The envelopes and tables in docs/stream.md are those that are published."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from replicator.log.kafka.topic import changes_topic, stream_topic
from replicator.position import Author, Epoch, NodeId, Offset, Seq
from replicator.records.codec import load_schema
from replicator.records.types import Header, Record
from replicator.stream.change import changes_of
from replicator.stream.envelope import key_of, to_fields
from replicator.stream.json_envelope import JsonFormat
from tests.keyspace_fixture import writes

PAGE = (Path(__file__).parents[1] / "docs" / "stream.md").read_text()
EXAMPLE = re.compile(r"^After `([^`]+)`:\n\n```json\n(.*?)^```$", re.MULTILINE | re.DOTALL)
TIMELINE = bytes.fromhex("1f3c9a0b5d7e48629c0ad4e6b8f21357")
HEADER = Header(3, TIMELINE, Epoch(4), Author(NodeId("n1"), 7), Seq(1519), 1_764_000_000_123_456, bytes(8))
PUBLISHED_MS = 1_764_000_000_131


def published(commands: str) -> list[dict[str, Any]]:
    """What the last of some commands publishes, as key and value."""
    write = writes(*commands.split("; "))[-1]
    changes = changes_of("shop", Offset(1520), Record(HEADER, write, b""))
    stamped = [change._replace(published_ms=PUBLISHED_MS) for change in changes]
    form = JsonFormat()
    return [
        {"key": json.loads(form.encode_key(key_of(it, with_field=False))), "value": json.loads(form.encode(it))}
        for it in stamped
    ]


def test_the_examples_are_what_is_published() -> None:
    examples = EXAMPLE.findall(PAGE)
    assert {json.loads(text)["op"] for _, text in examples} >= {"c", "u", "d"}
    for commands, text in examples:
        assert json.loads(text) in [it["value"] for it in published(commands)], commands


def test_the_tables_have_the_fields_of_the_schema() -> None:
    schema = {field["name"]: field["type"] for field in load_schema("change.v1.avsc")["fields"]}
    parts = {"after": schema["before"][1], "source": schema["source"], "transaction": schema["transaction"][1]}
    fields = {f"{part}.{field['name']}" for part, record in parts.items() for field in record["fields"]}
    rows = re.findall(r"^\| `([a-z_0-9.]+)` \|", PAGE, re.MULTILINE)
    assert sorted(row for row in rows if row.split(".")[0] in parts and "." in row) == sorted(fields)
    assert {"op", "ts_ms"} <= set(rows)


def test_the_fields_are_those_of_to_fields() -> None:
    write = writes("SET a 1")[-1]
    [change] = changes_of("shop", Offset(1520), Record(HEADER, write, b""))
    fields = to_fields(change)
    assert list(fields) == [field["name"] for field in load_schema("change.v1.avsc")["fields"]]


def test_the_names_of_topics() -> None:
    assert f"`{changes_topic('<cluster>')}`" in PAGE
    assert f"`{stream_topic('<cluster>')}`" in PAGE
