"""The sources of settings, and the errors for invalid ones."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from replicator.address import Address
from replicator.cli.main import app, main
from replicator.config import NodeConfig, load, load_kafka, misspelt, passwords_from_files
from replicator.errors import ConfigError
from replicator.logging_setup import LogFormat, LogLevel, LogSettings
from replicator.protocol.timing import SETTINGS

REQUIRED = {"node": {"id": "n1", "cluster": "shop", "dir": "/data"}, "kafka": {"bootstrap": "kafka:9092"}}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "node.toml"


def test_the_required_settings_and_the_defaults() -> None:
    config = load(None, {}, REQUIRED)
    assert (config.node.id, config.node.dir, config.kafka.bootstrap) == ("n1", Path("/data"), "kafka:9092")
    assert (config.node.resp, config.node.http) == (Address("127.0.0.1", 7001), Address("127.0.0.1", 8001))
    assert config.repository == "/data/snapshots"
    assert config.timing == {}


def test_the_command_line_overrides_the_environment_which_overrides_the_file(file: Path) -> None:
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


def test_how_a_node_logs(file: Path) -> None:
    assert load(None, {}, REQUIRED).logs == LogSettings(LogLevel.INFO, LogFormat.TEXT)
    file.write_text('[node]\nlog_format = "json"\nlog_level = "error"\n')
    config = load(file, {"REPLICATOR_NODE_LOG_LEVEL": "debug"}, REQUIRED)
    assert config.logs == LogSettings(LogLevel.DEBUG, LogFormat.JSON)
    with pytest.raises(ConfigError, match=r"node\.log_format is 'xml': expected one of text, json"):
        load(None, {"REPLICATOR_NODE_LOG_FORMAT": "xml"}, REQUIRED)


@pytest.mark.parametrize(
    ("resp", "advertise", "expected"),
    [
        ("0.0.0.0:7001", "db1", "db1:7001"),
        ("[::]:7001", "::1", "[::1]:7001"),
        ("[::]:7001", "[::1]", "[::1]:7001"),
        ("[::1]:7001", "", "[::1]:7001"),
    ],
)
def test_the_advertised_host_replaces_the_listening_host(resp: str, advertise: str, expected: str) -> None:
    config = load(
        None, {}, {**REQUIRED, "node": {**REQUIRED["node"], "resp": resp, "http": resp, "advertise": advertise}}
    )
    assert str(config.advertised_resp) == str(config.advertised_http) == expected


def test_unrelated_environment_variables_are_ignored() -> None:
    environment = {"REPLICATOR_DIR": "./data", "REPLICATOR_CACHE": "/cache", "REPLICATOR_TEST_BOOTSTRAP": "k:1"}
    assert load(None, environment, REQUIRED) == load(None, {}, REQUIRED)
    assert misspelt(environment, SETTINGS) == []


def test_the_variables_of_a_service_are_ignored_whatever_its_name() -> None:
    """As Kubernetes sets them for services that are called replicator-node and so on."""
    environment = {
        f"REPLICATOR_{service}_{name}": "tcp://10.0.0.1:7001"
        for service in ("NODE", "KAFKA", "TIMING", "NODE_HTTP")
        for name in (
            *("SERVICE_HOST", "SERVICE_PORT", "SERVICE_PORT_REDIS", "PORT", "PORT_7001_TCP", "PORT_7001_TCP_ADDR"),
            *("PORT_7001_TCP_PORT", "PORT_7001_TCP_PROTO", "PORT_53_UDP_ADDR"),
        )
    }
    assert load(None, environment, REQUIRED, timing_names=SETTINGS) == load(None, {}, REQUIRED)
    assert misspelt(environment, SETTINGS) == []


@pytest.mark.parametrize(
    ("variable", "meant"),
    [
        ("NODE_PASWORD", "NODE_PASSWORD"),
        ("PASSWORD", "NODE_PASSWORD"),
        ("NODES_ID", "NODE_ID"),
        ("KAFKA_SASL_USERNAME", "KAFKA_USERNAME"),
        ("KAKFA_BOOTSTRAP", "KAFKA_BOOTSTRAP"),
        ("TIMING_LEASE", "TIMING_LEASE_MS"),
    ],
)
def test_a_misspelt_variable_is_ignored_and_found(variable: str, meant: str) -> None:
    environment = {f"REPLICATOR_{variable}": "x", f"REPLICATOR_{meant}": "1"}
    assert misspelt(environment, SETTINGS) == [(f"REPLICATOR_{variable}", f"REPLICATOR_{meant}")]
    assert load(None, {f"REPLICATOR_{variable}": "x"}, REQUIRED, timing_names=SETTINGS) == load(None, {}, REQUIRED)


def test_a_misspelt_variable_is_warned_about_without_its_value(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REPLICATOR_NODE_PASWORD", "s3cret")
    shown = CliRunner().invoke(app, ["status", "--dir", "/no/such/folder"])
    assert "REPLICATOR_NODE_PASWORD is not a setting" in shown.stderr and "REPLICATOR_NODE_PASSWORD?" in shown.stderr
    assert "s3cret" not in shown.output


def test_the_section_kafka_alone_has_the_same_sources(file: Path) -> None:
    file.write_text("[kafka]\nbootstrap = 'from-file:1'\nusername = 'from-file'\n[node]\nid = 'n1'\n")
    kafka = load_kafka(file, {"REPLICATOR_KAFKA_USERNAME": "from-env", "REPLICATOR_KAFKA_PASSWORD": "p"}, "given:1")
    assert (kafka.bootstrap, kafka.username, kafka.password) == ("given:1", "from-env", "p")


@pytest.mark.parametrize("text", ["nohost", "", "a:1,", "a:1,b", "http://a:1", "a:1;b:2", "::1:9092"])
def test_a_bootstrap_address_without_a_port_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=r"kafka\.bootstrap: invalid address .*separated by commas"):
        load(None, {}, {**REQUIRED, "kafka": {"bootstrap": text}})


def test_several_bootstrap_addresses_are_separated_by_commas() -> None:
    assert load_kafka(None, {}, "a:1, [::1]:2").bootstrap == "a:1,[::1]:2"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"resp": "0.0.0.0:7001"}, r"node\.resp listens at all addresses \(0\.0\.0\.0:7001\): give --advertise HOST"),
        ({"http": "[::]:8001"}, r"node\.http listens at all addresses \(\[::\]:8001\)"),
        (
            {"resp": "0.0.0.0:7001", "advertise": "0.0.0.0"},
            r"node\.advertise is 0\.0\.0\.0, .*not the address",
        ),
        ({"advertise": "[::]"}, r"node\.advertise is ::"),
    ],
)
def test_an_address_that_stands_for_all_is_never_advertised(given: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load(None, {}, {**REQUIRED, "node": {**REQUIRED["node"], **given}})


def test_passwords_are_not_in_the_text_of_a_config() -> None:
    environment = {"REPLICATOR_NODE_PASSWORD": "s3cret", "REPLICATOR_KAFKA_PASSWORD": "s3cret"}
    config = load(None, environment, REQUIRED)
    assert (config.node.password, config.kafka.password) == ("s3cret", "s3cret")
    assert "s3cret" not in f"{config} {config!r} {config.node!r} {config.kafka!r}"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[node\n", "is not valid TOML"),
        ("id = 'n1'\n", r"id is outside of a section"),
        ("[nodes]\n", r"unknown section \[nodes\], expected one of kafka, node, snapshots, timing"),
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
        ("[node]\nfanout = 0\n", r"node\.fanout is 0: expected 1 to 64"),
        ("[node]\nbacklog_mb = -1\n", r"node\.backlog_mb is -1: expected a whole number"),
        (
            '[node]\nupstream = "n1"\n',
            r"node\.upstream is n1, this node itself: name another node",
        ),
        ('[node]\nupstream = "a b"\n', r"invalid node\.upstream 'a b'"),
        ("[node]\nmax_clients = -1\n", r"node\.max_clients is -1"),
        ("[timing]\nlease_ms = 2.5\n", r"timing\.lease_ms is 2\.5"),
        ("[kafka]\nusername = 5\n", r"kafka\.username must be a string"),
        ('[node]\nadvertise = "\\u0000"\n', r"node\.advertise is '\\x00'"),
        ('[snapshots]\nrepository = "a\\u0000b"\n', r"snapshots\.repository is 'a\\x00b'"),
        ('[kafka]\ncafile = "a\\nb"\n', r"kafka\.cafile is 'a\\nb'"),
        ('[node]\npassword = "a\\nb"\n', r"^node\.password has a line break or a NUL in it: choose a password of one"),
        ('[kafka]\npassword = "a\\u0000b"\n', r"^kafka\.password has a line break or a NUL in it"),
    ],
)
def test_an_invalid_file_is_refused_with_the_reason(file: Path, content: str, message: str) -> None:
    file.write_text(content)
    with pytest.raises(ConfigError, match=message):
        load(file, {}, REQUIRED)


@pytest.mark.parametrize(
    ("dir", "message"),
    [
        ("a\0b", r"^node\.dir is 'a\\x00b': remove the line break or NUL in it"),
        ("~nosuchuser/x", r"^node\.dir is '~nosuchuser/x', and there is no such home folder: write the path in full"),
    ],
)
def test_a_folder_that_cannot_be(dir: str, message: str) -> None:
    for value in (dir, Path(dir)):
        with pytest.raises(ConfigError, match=message):
            load(None, {}, {**REQUIRED, "node": {**REQUIRED["node"], "dir": value}})


def test_a_missing_file_is_an_error(file: Path) -> None:
    with pytest.raises(ConfigError, match=r"node\.toml cannot be read: No such file"):
        load(file, {}, REQUIRED)


def test_a_missing_setting_is_reported_with_the_ways_to_set_it() -> None:
    with pytest.raises(ConfigError, match=r"kafka\.bootstrap is required: .*REPLICATOR_KAFKA_BOOTSTRAP"):
        load(None, {}, {"node": REQUIRED["node"]})


@pytest.mark.parametrize("name", ["", ".hidden", "a/b", "a b", "é", "x" * 101])
@pytest.mark.parametrize("setting", ["id", "cluster"])
def test_names_that_are_invalid_for_a_topic_or_folder_are_refused(setting: str, name: str) -> None:
    with pytest.raises(ConfigError, match=rf"invalid node\.{setting} .*letters"):
        load(None, {}, {**REQUIRED, "node": {**REQUIRED["node"], setting: name}})


def test_a_config_is_immutable() -> None:
    config: NodeConfig = load(None, {}, REQUIRED)
    with pytest.raises(AttributeError):
        config.node.id = "n2"  # type: ignore[misc]


def test_a_password_comes_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "node_password").write_text("s3cret \u00e9\n")
    environment = {"REPLICATOR_NODE_PASSWORD_FILE": str(tmp_path / "node_password"), "PATH": "/bin"}
    passwords_from_files(environment)
    assert environment == {"REPLICATOR_NODE_PASSWORD": "s3cret \u00e9", "PATH": "/bin"}
    assert not misspelt(environment, SETTINGS)


def test_a_byte_order_mark_is_not_part_of_a_password(tmp_path: Path) -> None:
    (tmp_path / "password").write_bytes(b"\xef\xbb\xbfs3cret\r\n")
    environment = {"REPLICATOR_NODE_PASSWORD_FILE": str(tmp_path / "password")}
    passwords_from_files(environment)
    assert environment == {"REPLICATOR_NODE_PASSWORD": "s3cret"}


@pytest.mark.parametrize("password", ["two\nlines", "a\r", "a\0b", "\udcff"])
def test_a_password_in_the_environment_that_cannot_be_sent(password: str) -> None:
    with pytest.raises(ConfigError, match=r"^REPLICATOR_NODE_PASSWORD .*: choose a") as raised:
        passwords_from_files({"REPLICATOR_NODE_PASSWORD": password})
    assert password not in str(raised.value)


@pytest.mark.parametrize(
    ("content", "other", "message"),
    [
        (None, {}, r"password \(REPLICATOR_KAFKA_PASSWORD_FILE\) cannot be read: No such file or directory"),
        (b"\n", {}, "is empty: write the password into it"),
        (b"\xff", {}, "is not text in UTF-8"),
        (b"ab\0cd", {}, r"the password in .*password \(REPLICATOR_KAFKA_PASSWORD_FILE\) has a line break or a NUL"),
        (b"two\nlines\n", {}, "choose a password of one line"),
        (b"a", {"REPLICATOR_KAFKA_PASSWORD": "b"}, "are both set: unset one of them"),
    ],
)
def test_a_file_that_contains_no_password(
    tmp_path: Path, content: bytes | None, other: dict[str, str], message: str
) -> None:
    file = tmp_path / "password"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(ConfigError, match=message):
        passwords_from_files({"REPLICATOR_KAFKA_PASSWORD_FILE": str(file), **other})


def test_commands_report_a_password_that_cannot_be_read(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("REPLICATOR_NODE_PASSWORD_FILE", "/nowhere/password")
    monkeypatch.setattr(sys, "argv", ["replicator", "status"])
    with pytest.raises(SystemExit, match="1"):
        main()
    assert "/nowhere/password (REPLICATOR_NODE_PASSWORD_FILE) cannot be read" in capsys.readouterr().err
    monkeypatch.setattr(sys, "argv", ["replicator", "--version"])
    with pytest.raises(SystemExit, match="0"):
        main()


def test_a_file_with_a_password_is_no_misspelt_setting(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "password").write_text("secret")
    monkeypatch.setenv("REPLICATOR_NODE_PASSWORD", "")  # which the program sets: restored after the test
    monkeypatch.setenv("REPLICATOR_NODE_PASSWORD_FILE", str(tmp_path / "password"))
    monkeypatch.setattr(sys, "argv", ["replicator", "status", "--dir", str(tmp_path)])
    with pytest.raises(SystemExit, match="1"):
        main()
    assert "Warning" not in capsys.readouterr().err
