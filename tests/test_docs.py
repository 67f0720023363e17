"""The documentation cites the defaults of the program."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from replicator.protocol.timing import Timing

DOCS = Path(__file__).parents[1] / "docs"
MS = {"ms": 1, "s": 1000}


def cited(page: Path) -> list[tuple[str, int]]:
    """Timings such as `read_ms` (2 s), in milliseconds."""
    found = re.findall(r"`(\w+_ms)`\s\((\d+)\s(ms|s)\)", page.read_text())
    return [(name, int(number) * MS[unit]) for name, number, unit in found]


@pytest.mark.parametrize("page", sorted(DOCS.glob("*.md")), ids=lambda page: page.name)
def test_timings_are_the_defaults(page: Path) -> None:
    for name, value_ms in cited(page):
        assert getattr(Timing(), name) == value_ms, name


def test_the_page_on_modes_cites_timings() -> None:
    assert {name for name, _ in cited(DOCS / "modes.md")} == {"sync_ms", "read_ms", "follower_lease_ms"}
