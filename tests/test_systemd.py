"""compose/systemd: the unit, and the examples of its files."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from replicator.config import NodeConfig, load, misspelt
from replicator.limits import RESERVED_DESCRIPTORS
from replicator.local.folder import STOP_S
from replicator.log.kafka.security import security_of
from replicator.protocol.timing import SETTINGS
from tests.systemd_files import environment_file

FILES = Path(__file__).parents[1] / "compose" / "systemd"
UNIT, NODE, ENVIRONMENT = FILES / "replicator.service", FILES / "node.toml.example", FILES / "node.env.example"
COMMENTED_SETTING = re.compile(r"^# ([a-zA-Z_]+ ?= ?.*|\[\w+\])$", re.MULTILINE)


def setting(name: str) -> str:
    [value] = re.findall(rf"^{name}=(.*)$", UNIT.read_text(), re.MULTILINE)
    return str(value)


def uncommented(example: Path, folder: Path) -> Path:
    """With the optional settings."""
    file = folder / example.name
    file.write_text(COMMENTED_SETTING.sub(r"\1", example.read_text()))
    return file


def check(config: NodeConfig) -> None:
    assert (config.node.id, config.node.cluster) == ("n1", "shop")
    assert not config.is_protected  # so that other hosts can register
    security = security_of(config.kafka)
    assert (security.security_protocol, security.username) == ("SASL_SSL", "shop")


def test_the_examples_are_settings_of_a_node(tmp_path: Path) -> None:
    check(load(NODE, environment_file(ENVIRONMENT), {}))
    file, environment = uncommented(NODE, tmp_path), environment_file(uncommented(ENVIRONMENT, tmp_path))
    config = load(file, environment, {})
    check(config)
    assert config.repository == "s3://backups/shop"
    assert environment.keys() > environment_file(ENVIRONMENT).keys()
    assert misspelt(environment, SETTINGS) == []


def test_the_unit_keeps_what_a_node_promises() -> None:
    config = load(NODE, environment_file(ENVIRONMENT), {})
    assert setting("Type") == "notify" and setting("TimeoutStartSec") == "infinity"
    assert int(setting("TimeoutStopSec")) >= STOP_S
    assert int(setting("LimitNOFILE")) >= config.node.max_clients + RESERVED_DESCRIPTORS
    assert config.node.dir == Path("/var/lib") / setting("StateDirectory")
    assert setting("ExecStart").endswith("replicator node run --config /etc/replicator/node.toml")
    assert "pid" not in re.findall(r"^ProcSubset=(.*)$", UNIT.read_text(), re.MULTILINE)


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd-analyze (Debian: package systemd)")
def test_systemd_has_no_complaint(tmp_path: Path) -> None:
    unit = tmp_path / UNIT.name
    unit.write_text(UNIT.read_text().replace("/opt/replicator/bin/replicator", str(shutil.which("true"))))
    done = subprocess.run(["systemd-analyze", "verify", str(unit)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")
