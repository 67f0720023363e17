"""Style checks: long functions, commands without help, local paths in committed files."""

from __future__ import annotations

import ast
import re
import subprocess
from pathlib import Path

import pytest

from tools.cli_doc import commands

ROOT = Path(__file__).parents[1]
SOURCES = sorted(path for folder in ("replicator", "tests", "tools") for path in ROOT.glob(f"{folder}/**/*.py"))
FUNCTION_LINES = 70
LONG_FUNCTIONS = {
    "tests/test_redis_differential.py:command": "one line a command to draw from",
}


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_functions_are_short(source: Path) -> None:
    for node in ast.walk(ast.parse(source.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            name = f"{source.relative_to(ROOT)}:{node.name}"
            lines = (node.end_lineno or 0) - node.lineno + 1
            assert lines <= FUNCTION_LINES or name in LONG_FUNCTIONS, f"{name} has {lines} lines: split it"


def test_every_command_has_help_with_an_example() -> None:
    found = commands()
    assert len(found) > 10
    for name, command in found:
        assert command.help, f"{name} has no help"
        assert f"Example: {name}" in command.help, f"the help of {name} shows no example"
        for parameter in command.params:
            assert getattr(parameter, "help", None), f"{name}: {parameter.name} has no help"


def test_no_file_names_a_registry_or_a_local_path() -> None:
    done = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True)
    forbidden = re.compile("|".join(("https?://[^ ]*" + "(?:pypi|maven|docker)", "/" + "root/", "/" + "work/")))
    for name in done.stdout.split():
        path = ROOT / name
        if path.is_file():
            assert not forbidden.search(path.read_text(errors="replace")), f"{name} names a registry or a local path"
