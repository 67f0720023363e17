from __future__ import annotations

import ast
import os
import tomllib
from pathlib import Path

import pytest

from replicator.local.build import check_build

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
COMPILED = PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["hooks"]["mypyc"]["include"]


@pytest.mark.parametrize("path", COMPILED)
def test_a_compiled_module_has_no_coroutines(path: str) -> None:
    """mypyc can lose a cancellation if a `finally` awaits."""
    nodes = ast.walk(ast.parse((ROOT / path).read_text()))
    assert not [it.name for it in nodes if isinstance(it, ast.AsyncFunctionDef)], "move them to another module"


def test_the_build_is_reported() -> None:
    """`make compiled` says which build it expects."""
    build, python = check_build()
    assert build.value == os.environ.get("EXPECTED_BUILD", "interpreted")
    assert python.value in ("optimized", "not optimized")
    assert build.ok and python.ok
