"""Where settings come from, and what is said of wrong ones."""

from __future__ import annotations

from pathlib import Path

import pytest

from replicator.address import Address
from replicator.config import NodeConfig, load
from replicator.errors import ConfigError

NEEDED = {"node": {"id": "n1", "cluster": "shop", "dir": "/data"}, "kafka": {"bootstrap": "kafka:9092"}}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "node.toml"


def test_the_needed_settings_and_the_defaults() -> None:
    config = load(None, {}, NEEDED)
    assert (config.node.id, config.node.dir, config.kafka.bootstrap) == ("n1", Path("/data"), "kafka:9092")
    assert (config.node.resp, config.node.http) == (Address("127.0.0.1", 7001), Address("127.0.0.1", 8001))
    assert config.snapshot_dir == Path("/data/snapshots")
    assert config.timing == {}


def test_the_command_line_comes_before_the_environment_and_that_before_the_file(file: Path) -> None:
    file.write_text(
        """
        [node]
        id = "from-file"
        cluster = "from-file"
        dir = "from-file"
        [kafka]
        bootstrap = "from-file:1"
        [timing]
        lease_ms = 1000
        """
    )
    environment = {"REPLICATOR_NODE_CLUSTER": "from-env", "REPLICATOR_NODE_DIR": "from-env", "PATH": "/bin"}
    config = load(file, environment, {"node": {"dir": Path("given"), "cluster": None}})
    assert config.node.id == "from-file"
    assert config.node.cluster == "from-env"
    assert config.node.dir == Path("given")
    assert config.timing == {"lease_ms": 1000}


@pytest.mark.parametrize(
    ("resp", "advertise", "expected"),
    [
        ("0.0.0.0:7001", "db1", "db1:7001"),
        ("[::]:7001", "::1", "[::1]:7001"),
        ("[::]:7001", "[::1]", "[::1]:7001"),
        ("[::1]:7001", "", "[::1]:7001"),
    ],
)
def test_others_reach_a_node_by_the_advertised_host(resp: str, advertise: str, expected: str) -> None:
    config = load(None, {}, {**NEEDED, "node": {**NEEDED["node"], "resp": resp, "http": resp, "advertise": advertise}})
    assert str(config.advertised_resp) == str(config.advertised_http) == expected


def test_settings_of_other_tools_in_the_environment_are_left_alone() -> None:
    environment = {"REPLICATOR_DIR": "./data", "REPLICATOR_CACHE": "/cache", "REPLICATOR_TEST_BOOTSTRAP": "k:1"}
    assert load(None, environment, NEEDED) == load(None, {}, NEEDED)


def test_passwords_are_in_no_text() -> None:
    environment = {"REPLICATOR_NODE_PASSWORD": "s3cret", "REPLICATOR_KAFKA_PASSWORD": "s3cret"}
    config = load(None, environment, NEEDED)
    assert (config.node.password, config.kafka.password) == ("s3cret", "s3cret")
    assert "s3cret" not in f"{config} {config!r} {config.node!r} {config.kafka!r}"


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("[node\n", "is not valid TOML"),
        ("id = 'n1'\n", r"id is outside of a section"),
        ("[nodes]\n", r"unknown section \[nodes\], expected one of kafka, node, timing"),
        ("[node]\ncolour = 'red'\n", r"unknown setting node\.colour: .*cluster"),
        (
            "[node]\nresp = '7001'\n",
            r"node\.resp: invalid address '7001': expected HOST:PORT, for example",
        ),
        ("[node]\nresp = 'host:70000'\n", r"node\.resp: invalid address 'host:70000'"),
        ("[node]\nhttp = '::1:8001'\n", r"node\.http: .*write an IPv6 host in brackets, for example \[::1\]:7001"),
        ("[node]\nadvertise = 'db1:7001'\n", r"node\.advertise: invalid host 'db1:7001': .*without a port"),
        ("[node]\npriority = 'first'\n", r"node\.priority is 'first': expected a whole number, 0 or more"),
        ("[node]\npriority = true\n", r"node\.priority is True"),
        ("[node]\nmax_clients = -1\n", r"node\.max_clients is -1"),
        ("[timing]\nlease_ms = 2.5\n", r"timing\.lease_ms is 2\.5"),
        ("[kafka]\nusername = 5\n", r"kafka\.username must be a string"),
    ],
)
def test_what_is_wrong_in_a_file_is_named(file: Path, content: str, complaint: str) -> None:
    file.write_text(content)
    with pytest.raises(ConfigError, match=complaint):
        load(file, {}, NEEDED)


def test_a_file_that_is_not_there(file: Path) -> None:
    with pytest.raises(ConfigError, match=r"node\.toml cannot be read: No such file"):
        load(file, {}, NEEDED)


def test_a_wrong_variable_is_named() -> None:
    with pytest.raises(ConfigError, match=r"unknown setting node\.colour"):
        load(None, {"REPLICATOR_NODE_COLOUR": "red"}, NEEDED)


def test_a_missing_setting_is_named_with_the_ways_to_give_it() -> None:
    with pytest.raises(ConfigError, match=r"kafka\.bootstrap is required: .*REPLICATOR_KAFKA_BOOTSTRAP"):
        load(None, {}, {"node": NEEDED["node"]})


@pytest.mark.parametrize("name", ["", ".hidden", "a/b", "a b", "é", "x" * 101])
@pytest.mark.parametrize("setting", ["id", "cluster"])
def test_names_that_fit_no_topic_or_folder_are_refused(setting: str, name: str) -> None:
    with pytest.raises(ConfigError, match=rf"invalid node\.{setting} .*letters"):
        load(None, {}, {**NEEDED, "node": {**NEEDED["node"], setting: name}})


def test_a_config_cannot_be_changed() -> None:
    config: NodeConfig = load(None, {}, NEEDED)
    with pytest.raises(AttributeError):
        config.node.id = "n2"  # type: ignore[misc]
