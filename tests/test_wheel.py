"""The wheel: what it contains, and that the quick start of the README runs from it in an empty environment."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from email.message import Message
from email.parser import Parser
from pathlib import Path

import pytest

from replicator import __version__
from replicator.local.ports import HTTP_ABOVE_RESP, free_base_port
from tests.doc_pages import blocks, commands
from tests.test_doc_runs import SHOWN_PORT

ROOT = Path(__file__).parents[1]
NODES = 3
EXTRAS = {"broker", "client", "demo", "dev", "docs", "parquet", "postgres", "registry", "s3", "sql"}
INSTALLED = "broker,client"  # the others have wheels of many megabytes, and are not part of the quick start
SCHEMAS = """
import importlib.metadata, pathlib, sys
import replicator
from replicator.records.codec import RecordCodec
RecordCodec()
folder = pathlib.Path(replicator.__file__).parent
assert folder.is_relative_to(sys.prefix), folder
assert (folder / "py.typed").exists()
print(importlib.metadata.version("replicator"))
"""


def pip(python: str | Path, *words: str | Path) -> None:
    done = subprocess.run(
        [str(python), "-m", "pip", "--quiet", "--disable-pip-version-check", *map(str, words)],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from what git knows or would add, as in a clean clone."""
    folder = tmp_path_factory.mktemp("wheel")
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    for name in filter(None, listed.stdout.split("\0")):
        target = folder / "source" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if (ROOT / name).is_file():
            shutil.copyfile(ROOT / name, target)
    pip(sys.executable, "wheel", "--no-deps", "--wheel-dir", folder / "dist", folder / "source")
    [built] = (folder / "dist").glob("*.whl")
    return Path(built)


@pytest.fixture(scope="module")
def names(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


@pytest.fixture(scope="module")
def metadata(wheel: Path) -> Message:
    with zipfile.ZipFile(wheel) as archive:
        return Parser().parsestr(archive.read(f"replicator-{__version__}.dist-info/METADATA").decode())


@pytest.mark.kafka
@pytest.mark.timeout(420)
class TestContent:
    def test_the_schemas_the_types_and_the_licence_are_there(self, names: set[str]) -> None:
        assert {f"replicator/records/schemas/{it.name}" for it in (ROOT / "schemas").iterdir()} <= names
        assert "replicator/py.typed" in names
        assert f"replicator-{__version__}.dist-info/licenses/LICENSE" in names

    def test_all_modules_are_there_and_nothing_else(self, names: set[str]) -> None:
        modules = {str(it.relative_to(ROOT)) for it in (ROOT / "replicator").rglob("*.py")}
        assert {it for it in names if it.endswith(".py")} == modules
        assert {it.partition("/")[0] for it in names} == {"replicator", f"replicator-{__version__}.dist-info"}

    def test_the_metadata(self, wheel: Path, metadata: Message) -> None:
        assert wheel.name == f"replicator-{__version__}-py3-none-any.whl"
        assert (metadata["Name"], metadata["Version"]) == ("replicator", __version__)
        assert metadata["License-Expression"] == "Apache-2.0"
        assert metadata["Requires-Python"] == ">=3.11"
        assert set(metadata.get_all("Provides-Extra", [])) == EXTRAS
        assert str(metadata.get_payload()).startswith("# replicator\n")

    def test_the_version_is_in_one_place(self) -> None:
        sources = [*ROOT.glob("replicator/**/*.py"), ROOT / "pyproject.toml", ROOT / "mkdocs.yml"]
        having = [it.relative_to(ROOT) for it in sources if f'"{__version__}"' in it.read_text()]
        assert having == [Path("replicator/__init__.py")]


class Installation:
    """An empty environment with the wheel, and a folder in which commands run."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.base_port = free_base_port(NODES)
        self.python = home / "venv" / "bin" / "python"

    def run(self, command: str) -> str:
        """A line of the README, with other ports."""
        for index in range(NODES):
            for above in (0, HTTP_ABOVE_RESP):
                command = re.sub(rf"\b{SHOWN_PORT + above + index}\b", str(self.base_port + above + index), command)
        hidden = {name for name in os.environ if name.startswith(("PYTHON", "REPLICATOR_"))}
        environment = {name: value for name, value in os.environ.items() if name not in hidden}
        done = subprocess.run(
            ["bash", "-c", command.replace("redis-cli ", "redis-cli -e ")],
            cwd=self.home,
            env={**environment, "PATH": f"{self.python.parent}:{os.environ['PATH']}"},
            capture_output=True,
            text=True,
            timeout=180,
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
        return done.stdout


@pytest.fixture(scope="module")
def installation(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    home = tmp_path_factory.mktemp("installation")
    subprocess.run([sys.executable, "-m", "venv", str(home / "venv")], check=True, timeout=120)
    installation = Installation(home)
    pip(installation.python, "install", f"{wheel}[{INSTALLED}]")
    yield installation
    if (home / "replicator-data").exists():
        installation.run("replicator cluster down --purge")


@pytest.mark.kafka
@pytest.mark.timeout(600)
class TestInstalled:
    def test_the_version_and_the_schemas(self, installation: Installation) -> None:
        assert installation.run("replicator --version") == f"replicator {__version__}\n"
        done = subprocess.run(
            [installation.python, "-I", "-c", SCHEMAS],
            cwd=installation.home,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert (done.stdout, done.stderr) == (f"{__version__}\n", "")

    @pytest.mark.skipif(shutil.which("redis-cli") is None, reason="no redis-cli (Debian: package redis-tools)")
    def test_the_quick_start_of_the_readme(self, installation: Installation) -> None:
        [lines] = [
            found
            for block in blocks(ROOT / "README.md")
            if "replicator cluster up --nodes 3" in (found := commands(block))
        ]
        install, up, *others = lines
        assert re.search(r"pip install -e '\.\[broker\]'", install)
        installation.run(f"{up} --base-port {installation.base_port}")
        if json.loads(installation.run("replicator status --json"))["leader"] != "n1":  # the machine is busy
            installation.run("replicator replica promote n1")
        printed = [installation.run(line) for line in others]
        assert printed[:2] == ["OK\n", "hello\n"]
        assert "n1" in printed[2] and "leader" in printed[2]
        assert not (installation.home / "replicator-data").exists()
