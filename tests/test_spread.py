"""How records spread among many followers, and the plot of it."""

from __future__ import annotations

import math
from pathlib import Path
from xml.etree import ElementTree

import pytest
from typer.testing import CliRunner

from replicator.cli.main import app
from replicator.testing.spread import HOP_MS, SpreadPlan, levels, reached, simulate_spread


@pytest.mark.parametrize("fanout", [2, 3, 4, 64])
@pytest.mark.parametrize("nodes", [1, 2, 4, 5, 20, 21, 100, 1000])
def test_the_depth_is_that_of_the_closed_form(nodes: int, fanout: int) -> None:
    depth = levels(nodes, fanout)
    assert depth == math.ceil(round(math.log(nodes * (fanout - 1) / fanout + 1, fanout), 9))
    assert reached(depth, nodes, fanout) == 1 > reached(depth - 1, nodes, fanout)


@pytest.mark.parametrize("nodes", [1, 4, 5, 100])
def test_records_reach_all_followers_within_the_depth(nodes: int) -> None:
    plan = SpreadPlan(nodes, fanout=4, ranges=5)
    for spread in simulate_spread(plan):
        assert len(spread.times_ms) == 5 * nodes
        assert spread.times_ms[-1] <= levels(nodes, 4) * 1.5 * HOP_MS
        assert spread.most_copies <= 4
    tree, gossip = simulate_spread(plan)
    assert tree.from_kafka == 0 and gossip.from_kafka == min(4, nodes)


def test_failed_followers_delay_those_below_them() -> None:
    for spread in simulate_spread(SpreadPlan(100, fanout=4, failed=0.1)):
        assert len(spread.times_ms) == 20 * 90
        assert 100 * levels(100, 4) * HOP_MS < spread.times_ms[-1] < 1000


@pytest.mark.parametrize("options", [("--nodes", "20"), ("--nodes", "1"), ("--nodes", "5", "--failed", "0.9")])
def test_the_plot_is_an_svg(tmp_path: Path, options: tuple[str, ...]) -> None:
    file = tmp_path / "spread.svg"
    result = CliRunner().invoke(app, ["simulate", "spread", *options, "--svg", str(file)])
    assert result.exit_code == 0 and "gossip" in result.output
    assert ElementTree.parse(file).getroot().tag.endswith("svg")
