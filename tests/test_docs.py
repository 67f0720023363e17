"""The documentation cites the defaults of the program."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from replicator.protocol.timing import Timeouts
from replicator.records.types import Timing

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = [*sorted(DOCS.glob("*.md")), ROOT / "README.md"]
FOLDERS = (ROOT, ROOT / "replicator", ROOT / "replicator" / "server" / "redis", ROOT / "tests")
MS = {"ms": 1, "s": 1000}
TIMING, TIMEOUTS = Timing(), Timeouts()


def cited(page: Path) -> list[tuple[str, int]]:
    """Timings such as `read_ms` (2 s), in milliseconds."""
    found = re.findall(r"`(\w+_ms)`\s\((\d+)\s(ms|s)\)", page.read_text())
    return [(name, int(number) * MS[unit]) for name, number, unit in found]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_timings_are_the_defaults(page: Path) -> None:
    for name, value_ms in cited(page):
        assert getattr(TIMEOUTS if hasattr(TIMEOUTS, name) else TIMING, name) == value_ms, name


def test_the_page_on_modes_cites_timings() -> None:
    assert {name for name, _ in cited(DOCS / "modes.md")} == {"sync_ms", "read_ms", "follower_lease_ms"}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_files_that_a_page_names_exist(page: Path) -> None:
    for name in re.findall(r"`((?:\w+/)*\w+\.(?:py|avsc))`", page.read_text()):
        assert any((folder / name).exists() for folder in FOLDERS), name


def test_each_question_of_the_reading_guide_names_at_most_three_files() -> None:
    guide = (DOCS / "architecture.md").read_text().partition("## 8. Reading guide")[2]
    questions = re.findall(r"^\| ([A-Z][^|]+\?) \| ([^|]+) \|$", guide, re.MULTILINE)
    assert len(questions) == 31
    for question, files in questions:
        assert 1 <= files.count("`") // 2 <= 3, question
