"""docs/configuration.md lists every setting and every limit."""

from __future__ import annotations

from dataclasses import fields

import pytest

from replicator import limits
from tools.configuration_doc import PAGE, TABLES, bytes_text, described, described_limits, part, regenerated


def test_the_page_is_up_to_date() -> None:
    page = PAGE.read_text()
    assert page == regenerated(page), "docs/configuration.md is stale: run `python -m tools.configuration_doc`"


def test_the_page_has_a_place_for_each_part() -> None:
    page = PAGE.read_text()
    for name in (*TABLES, "limits"):
        assert page.count(f"<!-- generated: {name} -->\n") == 1


@pytest.mark.parametrize("name", TABLES)
def test_every_setting_has_a_description_and_a_row(name: str) -> None:
    table, (section, kind) = part(name), TABLES[name]
    for it in fields(kind):
        _, doc = described(kind, it.name)
        assert doc.endswith("."), f"{section}.{it.name} has no description: Annotated[type, description]"
        assert f"| `{it.name}` | `REPLICATOR_{section}_{it.name}` |".lower() in table.lower()


def test_options_are_those_of_node_run() -> None:
    assert "| `REPLICATOR_NODE_RESP` | `--resp` | HOST:PORT | `127.0.0.1:7001` |" in part("node")
    assert "| `REPLICATOR_KAFKA_BOOTSTRAP` | `--bootstrap` | string | required |" in part("kafka")
    assert "| `REPLICATOR_TIMING_LEASE_MS` |  | ms | `600` |" in part("timing")


def test_every_limit_has_a_reason() -> None:
    described = {name: doc for name, _, doc in described_limits()}
    assert set(described) == {name for name in vars(limits) if name.isupper()}
    assert [name for name, doc in described.items() if not doc] == []


def test_bytes_in_words() -> None:
    sizes = [511, 64 << 10, 512 << 10, 8 << 20, 3_500_000, 1_000_000]
    assert [bytes_text(size) for size in sizes] == ["511 bytes", "64 KiB", "512 KiB", "8 MiB", "3.5 MB", "1 MB"]
