from __future__ import annotations

import ast
import os
import tomllib
from importlib import metadata
from importlib.resources import files
from pathlib import Path

import pytest

from replicator import __version__
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


def test_the_version_is_that_of_the_package_and_types_are_published() -> None:
    assert metadata.version("replicator") == __version__
    assert files("replicator").joinpath("py.typed").is_file()
