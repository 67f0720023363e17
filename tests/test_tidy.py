"""Style checks: long functions, commands without help, local paths in committed files."""

from __future__ import annotations

import ast
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from replicator.cli.main import app

ROOT = Path(__file__).parents[1]
SOURCES = sorted(path for folder in ("replicator", "tests", "tools") for path in ROOT.glob(f"{folder}/**/*.py"))
FUNCTION_LINES = 70
LONG_FUNCTIONS = {
    "tests/test_redis_differential.py:command": "one line a command to draw from",
}


def commands() -> list[tuple[str, Any]]:
    return list(_walk("replicator", typer.main.get_command(app)))


def _walk(name: str, command: Any) -> Iterator[tuple[str, Any]]:
    children = getattr(command, "commands", None)
    if children is None or command.invoke_without_command:
        yield name, command
    for child_name, child in (children or {}).items():
        yield from _walk(f"{name} {child_name}", child)


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_functions_are_short(source: Path) -> None:
    for node in ast.walk(ast.parse(source.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            name = f"{source.relative_to(ROOT)}:{node.name}"
            lines = (node.end_lineno or 0) - node.lineno + 1
            assert lines <= FUNCTION_LINES or name in LONG_FUNCTIONS, f"{name} has {lines} lines: split it"


def test_every_command_has_help_with_an_example_and_is_in_the_readme() -> None:
    readme = (ROOT / "README.md").read_text()
    found = commands()
    assert len(found) > 10
    for name, command in found:
        assert command.help, f"{name} has no help"
        assert f"Example: {name}" in command.help, f"the help of {name} shows no example"
        assert f"`{name}`" in readme, f"{name} is not in the README"
        for parameter in command.params:
            assert getattr(parameter, "help", None), f"{name}: {parameter.name} has no help"


def test_the_readme_names_only_existing_commands() -> None:
    known = {name for name, _ in commands()}
    named = set(re.findall(r"^\| `(replicator [a-z -]+)` \|", (ROOT / "README.md").read_text(), re.MULTILINE))
    assert named == known


def test_no_file_names_a_registry_or_a_local_path() -> None:
    done = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True)
    forbidden = re.compile("|".join(("https?://[^ ]*" + "(?:pypi|maven|docker)", "/" + "root/", "/" + "work/")))
    for name in done.stdout.split():
        path = ROOT / name
        if path.is_file():
            assert not forbidden.search(path.read_text(errors="replace")), f"{name} names a registry or a local path"
