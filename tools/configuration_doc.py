"""Writes the tables of settings and limits into docs/configuration.md, between its markers.

python -m tools.configuration_doc
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

import typer

from replicator import limits
from replicator.address import Address
from replicator.cli.node import app
from replicator.config import PREFIX, KafkaSection, NodeSection, SnapshotsSection
from replicator.protocol.timing import Timeouts
from replicator.records.types import Timing

PAGE = Path(__file__).parents[1] / "docs" / "configuration.md"
TABLES: dict[str, tuple[str, type]] = {
    "node": ("node", NodeSection),
    "kafka": ("kafka", KafkaSection),
    "snapshots": ("snapshots", SnapshotsSection),
    "timing": ("timing", Timing),
    "timeouts": ("timing", Timeouts),
}
"""By the name of the table: the section that it describes, and the settings."""
_PART = re.compile(r"(<!-- generated: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)
_TYPES = {str: "string", int: "number", Address: "HOST:PORT", Path: "path", Path | None: "path"}


def settings(table: str) -> str:
    section, kind = TABLES[table]
    options = _options()
    rows = []
    for it in fields(kind):
        hint, doc = described(kind, it.name)
        unit = "ms" if it.name.endswith("_ms") else _TYPES.get(hint, "string")
        default = "required" if it.default is MISSING else f"`{it.default}`" if it.default not in ("", None) else ""
        variable = f"{PREFIX}_{section}_{it.name}".upper()
        rows.append((f"`{it.name}`", f"`{variable}`", options.get((section, it.name), ""), unit, default, doc))
    return _table(("setting", "environment variable", "option", "unit or type", "default", "meaning"), rows)


def described(section: type, name: str) -> tuple[Any, str]:
    """Type and description of a setting; an empty description if it has none."""
    hint = get_type_hints(section, include_extras=True)[name]
    if get_origin(hint) is None or not hasattr(hint, "__metadata__"):
        return hint, ""
    kind, doc = get_args(hint)
    return kind, doc


def _options() -> dict[tuple[str, str], str]:
    """The options of `replicator node run`, by section and setting."""
    command: Any = typer.main.get_command(app)
    given = {str(it.name): f"`{it.opts[0]}`" for it in command.commands["run"].params}
    own = {it.name for it in fields(NodeSection)}
    found = {("node" if name in own else "kafka", name): option for name, option in given.items()}
    return {**found, ("snapshots", "repository"): given["snapshots"]}


def limit_table() -> str:
    rows = ((f"`{name}`", _amount(name, value), doc) for name, value, doc in described_limits())
    return _table(("limit", "value", "what it limits, and why"), rows)


def described_limits() -> Iterator[tuple[str, int, str]]:
    """Name, value and the text below each constant of `replicator.limits`; an empty text if it has none."""
    nodes = ast.parse(Path(limits.__file__).read_text()).body
    for node, following in zip(nodes, [*nodes[1:], None], strict=True):
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            name = node.targets[0].id
            has_doc = isinstance(following, ast.Expr) and isinstance(following.value, ast.Constant)
            yield name, getattr(limits, name), str(following.value.value) if has_doc else ""  # type: ignore[union-attr]


def _amount(name: str, value: int) -> str:
    if name.endswith("_BYTES"):
        return bytes_text(value)
    if name.endswith("_MS"):
        return f"{value} ms" if value % 3_600_000 else f"{value // 3_600_000} hours"
    return f"{value:,}"


def bytes_text(value: int) -> str:
    """Such as 511 bytes, 512 KiB, 8 MiB, 3.5 MB."""
    for size, unit in ((1 << 20, "MiB"), (1 << 10, "KiB"), (1_000_000, "MB")):
        if value >= size and (value % size == 0 or unit == "MB"):
            return f"{value / size:g} {unit}"
    return f"{value} bytes"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = (head, ["---"] * len(head), *rows)
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def part(name: str) -> str:
    return limit_table() if name == "limits" else settings(name)


def regenerated(page: str) -> str:
    return _PART.sub(lambda found: f"{found[1]}{part(found[2])}\n{found[3]}", page)


if __name__ == "__main__":
    PAGE.write_text(regenerated(PAGE.read_text()))
