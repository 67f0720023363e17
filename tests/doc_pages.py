"""The pages of the documentation, and the code blocks in them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted(DOCS.glob("*.md"))]
SHELLS = {"sh", "bash", "shell", "console"}
INDENTED = ""
PROGRAMS = ("curl ", "kcat ", "make ", "python ", "python3 ", "redis-benchmark ", "redis-cli ", "replicator ")
"""An indented line that begins with one of these is a command."""
_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_INDENTED = re.compile(r"(?:\A|(?<=\n\n))((?: {4}[^\n]*\n)+)")


@dataclass(frozen=True, slots=True)
class Block:
    language: str  # INDENTED: four spaces, which may be commands or anything else
    text: str


def blocks(page: Path) -> list[Block]:
    """In the order of the page."""
    text = page.read_text()
    found = [(it.start(), Block(it[1] or "text", it[2])) for it in _FENCE.finditer(text)]
    prose = _FENCE.sub(lambda it: "\n" * len(it[0]), text)  # of equal length: places stay comparable
    found += [
        (it.start(), Block(INDENTED, re.sub("^    ", "", it[1], flags=re.MULTILINE)))
        for it in _INDENTED.finditer(prose)
    ]
    return [block for _, block in sorted(found, key=lambda it: it[0])]


def commands(block: Block) -> list[str]:
    """The lines that are for the shell, without comments."""
    if block.language not in {*SHELLS, INDENTED}:
        return []
    lines = (re.sub(r"\s+#\s.*$", "", line).strip() for line in block.text.replace("\\\n", " ").splitlines())
    if block.language == "console":
        lines = (line.removeprefix("$ ") for line in lines if line.startswith("$ "))
    if block.language == INDENTED:
        lines = (line for line in lines if line.startswith(PROGRAMS))
    return [line for line in lines if line and not line.startswith("# ")]


def inline_code(page: Path) -> Iterator[str]:
    prose = _INDENTED.sub("", _FENCE.sub("", page.read_text()))
    yield from (" ".join(it.split()) for it in re.findall(r"`([^`]+)`", prose))
