"""The tree that `replicator status` draws."""

from __future__ import annotations

from dataclasses import replace
from io import StringIO

from rich.console import Console

from replicator.cli.status import draw_tree
from replicator.local.summary import NodeSummary

NODE = NodeSummary(
    id="n1",
    role="leader",
    mode="async",
    resp="",
    http="",
    state="serving",
    source=None,
    upstream=None,
    kafka_answers=True,
    trouble="",
    applied_offset=9,
    lag_records=0,
    lag_ms=0.0,
    digest="",
    entries=0,
    store_bytes=None,
    publisher=None,
    ignored_timing={},
    healed=None,
)


def follower(id: str, upstream: str | None) -> NodeSummary:
    source = "kafka" if upstream is None else "leader" if upstream == "n1" else "follower"
    return replace(NODE, id=id, role="follower", source=source, upstream=upstream)


def drawn(*nodes: NodeSummary) -> list[str]:
    out = StringIO()
    console = Console(file=out, width=80)
    for tree in draw_tree(nodes):
        console.print(tree)
    return [line.rstrip() for line in out.getvalue().splitlines()]


def test_each_node_is_below_its_upstream() -> None:
    assert drawn(NODE, follower("n2", "n1"), replace(follower("n3", "n2"), lag_records=4), follower("n4", None)) == [
        "Kafka",
        "├── n1, lag 0",
        "│   └── n2, lag 0",
        "│       └── n3, lag 4",
        "└── n4, lag 0",
    ]
    assert drawn(NODE, follower("n2", "n1")) == []


def test_a_node_that_does_not_answer_is_left_out() -> None:
    dead = replace(follower("n2", None), state="unreachable", applied_offset=None, lag_records=None, source=None)
    assert drawn(NODE, dead, follower("n3", "n2"), follower("n4", "n3")) == [
        "Kafka",
        "├── n1, lag 0",
        "└── n3, lag 0",
        "    └── n4, lag 0",
    ]
