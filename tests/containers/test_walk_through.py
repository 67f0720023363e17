"""The commands of `compose/README.md`, run as one script."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.containers.stack import NODES, prepared
from tests.doc_pages import ROOT, blocks

pytestmark = [pytest.mark.containers, pytest.mark.timeout(900)]


def test_the_walk_through_runs_as_a_script(tmp_path: Path) -> None:
    stack = prepared(tmp_path / "compose")
    script = "".join(block.text for block in blocks(ROOT / "compose" / "README.md") if block.language == "sh")
    for number, node in enumerate(NODES, 1):
        script = script.replace(f"-p 700{number}", f"-p {stack.ports[node]}")
    script = script.replace("-p 7004", f"-p {max(stack.ports.values()) + 1}")
    binaries = f"{Path(sys.executable).parent}:{stack.environment['PATH']}"
    try:
        done = subprocess.run(
            ["bash", "-euxc", script],
            cwd=stack.folder,
            env=stack.environment | {"PATH": binaries},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=800,
        )
        assert done.returncode == 0, done.stdout
        assert "Frankfurt am Main" in done.stdout and "hello again" in done.stdout
        assert "compose.n4.yaml" in (stack.folder / ".env").read_text()
    finally:
        stack.compose("down", "--volumes")
