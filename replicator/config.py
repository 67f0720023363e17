"""Settings of one node, and the only place that reads TOML files and the environment.

A setting is taken from the first of: what the caller says (command line), `REPLICATOR_<SECTION>_<NAME>` in the
environment, `[section] name = …` in the file, its default.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

from replicator.address import Address, address
from replicator.errors import ConfigError

Section = Mapping[str, Any]
T = TypeVar("T")

PREFIX = "REPLICATOR"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")  # fit for a Kafka topic and for a folder


def checked_name(what: str, text: str) -> str:
    """`text`, if a node or a cluster may be called so. Raises `ConfigError`."""
    if not _NAME.fullmatch(text):
        raise ConfigError(
            f"{what} {text!r}: use at most 100 letters (a to z), digits, dots, dashes and underscores, "
            "and begin with a letter or digit"
        )
    return text


@dataclass(frozen=True, slots=True)
class NodeSection:
    id: str  # unique in the cluster
    cluster: str  # the log is the topic <cluster>.wal
    dir: Path  # the store is below
    resp: Address = field(default_factory=lambda: Address("127.0.0.1", 7001))  # for Redis clients
    http: Address = field(default_factory=lambda: Address("127.0.0.1", 8001))
    advertise: str = ""  # the host that others reach this node by; default: that of `resp`
    priority: int = 0  # lower leads sooner
    password: str = field(default="", repr=False)  # of Redis clients, and of HTTP requests that change something
    max_clients: int = 10_000
    snapshots: Path | None = None  # default: `snapshots` beside the store


@dataclass(frozen=True, slots=True)
class KafkaSection:
    bootstrap: str
    security_protocol: str = "PLAINTEXT"
    cafile: str = ""
    certfile: str = ""
    keyfile: str = ""
    sasl_mechanism: str = "PLAIN"
    username: str = field(default="", repr=False)
    password: str = field(default="", repr=False)
    replication_factor: int = 0  # of topics that are created; 0: 3, or as many as there are brokers


@dataclass(frozen=True, slots=True)
class NodeConfig:
    node: NodeSection
    kafka: KafkaSection
    timing: Mapping[str, int]  # arguments of `protocol.timing.Timing`

    @property
    def advertised_resp(self) -> str:
        return f"{self.node.advertise or self.node.resp.host}:{self.node.resp.port}"

    @property
    def advertised_http(self) -> str:
        return f"{self.node.advertise or self.node.http.host}:{self.node.http.port}"

    @property
    def snapshot_dir(self) -> Path:
        return self.node.snapshots or self.node.dir / "snapshots"


def load(file: Path | None, environment: Mapping[str, str], given: Mapping[str, Section]) -> NodeConfig:
    """`given` by section; a value of None is not given. Raises `ConfigError`, naming the setting."""
    from_file = _read(file) if file else {}
    known = {"node", "kafka", "timing"}
    for name in from_file:
        if name not in known:
            raise ConfigError(f"{file}: there is no section [{name}], only {', '.join(sorted(known))}")
    layers = [from_file, _from_environment(environment, known), given]
    merged: dict[str, dict[str, Any]] = {name: {} for name in known}
    for layer in layers:
        for name, section in layer.items():
            merged[name].update({key: value for key, value in section.items() if value is not None})
    node = _section("node", NodeSection, merged["node"])
    checked_name("node.id", node.id)
    checked_name("node.cluster", node.cluster)
    timing = {name: _convert("timing", name, int, value) for name, value in merged["timing"].items()}
    return NodeConfig(node, _section("kafka", KafkaSection, merged["kafka"]), timing)


def _read(file: Path) -> Mapping[str, Section]:
    try:
        content = tomllib.loads(file.read_text())
    except OSError as error:
        raise ConfigError(f"{file} cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file} is no TOML: {error}") from error
    for name, section in content.items():
        if not isinstance(section, dict):
            raise ConfigError(f"{file}: {name} stands outside of a section, write it below [node], [kafka] or [timing]")
    return content


def _from_environment(environment: Mapping[str, str], sections: set[str]) -> Mapping[str, Section]:
    found: dict[str, dict[str, str]] = {}
    for variable, value in environment.items():
        prefix, _, rest = variable.partition("_")
        section, _, name = rest.partition("_")
        if prefix == PREFIX and section.lower() in sections and name:
            found.setdefault(section.lower(), {})[name.lower()] = value
    return found


def _section(name: str, kind: type[T], values: Mapping[str, Any]) -> T:
    types = get_type_hints(kind)
    for key in values:
        if key not in types:
            raise ConfigError(f"there is no setting {name}.{key}: the section has {', '.join(sorted(types))}")
    arguments = {key: _convert(name, key, types[key], value) for key, value in values.items()}
    for it in fields(kind):  # type: ignore[arg-type]
        if it.name not in arguments and it.default is MISSING and it.default_factory is MISSING:
            variable = f"{PREFIX}_{name}_{it.name}".upper()
            raise ConfigError(f"{name}.{it.name} is needed: give the option, {variable}, or set it in the file")
    return kind(**arguments)


def _convert(section: str, name: str, kind: Any, value: Any) -> Any:
    if kind is Address:
        return _address_of(f"{section}.{name}", value)
    if kind is int:
        return _whole_number(f"{section}.{name}", value)
    if not isinstance(value, str | Path):
        raise ConfigError(f"{section}.{name} should be a text: write it in quotes")
    return str(value) if kind is str else Path(value).expanduser()


def _address_of(setting: str, value: Any) -> Address:
    try:
        return value if isinstance(value, Address) else address(str(value))
    except ConfigError as error:
        raise ConfigError(f"{setting}: {error}") from None


def _whole_number(setting: str, value: Any) -> int:
    if isinstance(value, int | str) and not isinstance(value, bool):
        try:
            number = int(value)
        except ValueError:
            number = -1
        if number >= 0:
            return number
    raise ConfigError(f"{setting} is {value!r}, and should be a whole number, 0 or more")
