"""Settings of one node, and the only place that reads TOML files and the environment.

A setting is taken from the first of: the command line, `REPLICATOR_<SECTION>_<NAME>` in the environment,
`[section] name = …` in the file, its default. The text beside a setting is its description in docs/configuration.md.

Unknown variables are ignored: for a service that is called replicator-node, Kubernetes sets some like
`REPLICATOR_NODE_SERVICE_HOST`. `misspelt` finds those that are probably mistakes.
"""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Callable, Collection, Iterable, Mapping, MutableMapping
from dataclasses import MISSING, dataclass, field, fields, replace
from enum import StrEnum
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_type_hints

from replicator.address import Address, parse_host
from replicator.errors import ConfigError
from replicator.limits import MAX_BACKLOG_MB, MAX_FANOUT, MAX_NAME_CHARS
from replicator.logging_setup import LogFormat, LogLevel, LogSettings
from replicator.position import AUTO, FANOUT, GOSSIP, LEADER

Section = Mapping[str, Any]
T = TypeVar("T")

PREFIX = "REPLICATOR"
DEFAULT_KEEP = 3  # snapshots
_RESP, _HTTP = Address("127.0.0.1", 7001), Address("127.0.0.1", 8001)
_NAME = re.compile(rf"[A-Za-z0-9][A-Za-z0-9._-]{{0,{MAX_NAME_CHARS - 1}}}")  # valid in topic and folder names
_CONTROL = re.compile(r"[\0\r\n]")  # in no path, host, user name or password
# Variables that Kubernetes and Docker set for a service, whatever its name.
_SERVICE_VARIABLE = re.compile(
    r".*_(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT|PORT_\d+_(TCP|UDP|SCTP)(_(PORT|PROTO|ADDR))?)"
)
_LIKENESS = 0.75  # of a misspelt name and the right one, as `difflib` measures it


def checked_node_id(what: str, text: str) -> str:
    """`text`, if it is a valid id of a node. Raises `ConfigError`."""
    if text in (LEADER, AUTO, GOSSIP):
        raise ConfigError(f"invalid {what} {text!r}: it has another meaning in node.upstream")
    return checked_name(what, text)


def checked_upstream(upstream: str, id: str) -> str:
    """`upstream`, if the node `id` may have it. Raises `ConfigError`."""
    if upstream == id:
        raise ConfigError(f"node.upstream is {id}, this node itself: name another node, {LEADER}, {AUTO} or {GOSSIP}")
    return checked_name("node.upstream", upstream)


def checked_name(what: str, text: str) -> str:
    """`text`, if it is a valid name of a node or a cluster. Raises `ConfigError`."""
    if not _NAME.fullmatch(text):
        raise ConfigError(
            f"invalid {what} {text!r}: use 1 to {MAX_NAME_CHARS} letters (a to z), digits, dots, dashes and "
            "underscores, starting with a letter or digit"
        )
    return text


def checked_bootstrap(text: str) -> str:
    """`text`, if it is one or more addresses, separated by commas. Raises `ConfigError`."""
    try:
        return ",".join(str(Address.parse(address.strip())) for address in text.split(","))
    except ConfigError as error:
        raise ConfigError(f"{error}, or several of them, separated by commas") from None


def expanded(what: str, path: str | Path) -> Path:
    """`path`, with the home folder instead of a `~` that it begins with. Raises `ConfigError`."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise ConfigError(
            f"{what} is {str(path)!r}, and there is no such home folder: write the path in full"
        ) from None


def checked_password(what: str, text: str) -> str:
    """`text`, if clients can send it over each protocol. Raises `ConfigError` without it."""
    if _CONTROL.search(text):
        raise ConfigError(f"{what} has a line break or a NUL in it: choose a password of one line")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ConfigError(f"{what} is not text in UTF-8: choose another password") from None
    return text


@dataclass(frozen=True, slots=True)
class NodeSection:
    id: Annotated[str, "Name of the node, unique in the cluster."]
    cluster: Annotated[str, "Name of the cluster. The log is the topic `<cluster>.wal`."]
    dir: Annotated[Path, "Folder of the node. Contains the store."]
    resp: Annotated[Address, "Where the node listens for Redis clients."] = _RESP
    http: Annotated[Address, "Where the node listens for HTTP requests."] = _HTTP
    advertise: Annotated[
        str, "Host that clients and other nodes connect to. Default: the hosts of `resp` and of `http`."
    ] = ""
    priority: Annotated[int, "When the leader fails, nodes with lower values start an election sooner."] = 0
    upstream: Annotated[
        str,
        "Where a follower receives records from. `leader`: the leader. An id: that node. `auto`: its parent in a tree "
        "of all nodes. `gossip`: Kafka for some ranges of the log, other followers for the rest. If that node is "
        "unavailable, the follower uses another one or Kafka.",
    ] = LEADER
    fanout: Annotated[
        int,
        "Number of followers that a node sends records to with `auto` and `gossip`, and of followers that fetch each "
        "range from Kafka with `gossip`. Must be the same on all nodes.",
    ] = FANOUT
    backlog_mb: Annotated[
        int,
        "MiB of recent records that a follower keeps on disk for other followers that are behind. They read older "
        "records from Kafka. 0: only in memory (`REPLICATION_BACKLOG_BYTES`).",
    ] = 256
    password: Annotated[
        str, "Password for Redis clients, and for HTTP requests that change something or read a key. Default: none."
    ] = field(default="", repr=False)
    max_clients: Annotated[int, "Largest number of connected Redis clients."] = 10_000
    timeout_s: Annotated[int, "Seconds after which an idle Redis client is disconnected. 0: never."] = 0
    protected_mode: Annotated[
        str, "`yes`: without a password, only clients on the node's own machine are served. `no`: all are."
    ] = "yes"
    procedures: Annotated[
        str, "File of the [procedures](procedures.md) in Python, the same on all nodes. Default: there are none."
    ] = ""
    log_level: Annotated[
        LogLevel, "The least severe messages that the node logs: `debug`, `info`, `warning` or `error`."
    ] = LogLevel.INFO
    log_format: Annotated[
        LogFormat, "How the node writes messages to stderr: `text`, or `json`, one object a line."
    ] = LogFormat.TEXT


@dataclass(frozen=True, slots=True)
class SnapshotsSection:
    repository: Annotated[
        str,
        "Where snapshots are kept: a folder, or a URL such as `s3://bucket/prefix` (extra `s3`, and others that fsspec "
        "knows). Default: `snapshots` in `node.dir`.",
    ] = ""
    every_records: Annotated[
        int,
        "A snapshotter takes a snapshot after so many records (or MiB, or seconds), if there are new ones. 0: never.",
    ] = 10_000_000
    every_mb: Annotated[int, "… or after so many MiB of the log. 0: never."] = 1024
    every_s: Annotated[int, "… or after so many seconds. 0: never."] = 3600
    keep: Annotated[int, "A snapshotter deletes all but so many verified snapshots, the newest ones."] = DEFAULT_KEEP
    keep_s: Annotated[int, "Snapshots that are younger than that are not deleted, either."] = 0
    trim: Annotated[
        str, "`yes`: a snapshotter deletes the part of the log that is no longer needed. `no`: it stays for good."
    ] = "no"
    keep_log_s: Annotated[int, "Records that are younger than that are not deleted, for audits."] = 0
    keep_log_mb: Annotated[int, "As many MiB of the log, about, are not deleted."] = 0


@dataclass(frozen=True, slots=True)
class KafkaSection:
    bootstrap: Annotated[str, "Addresses of some brokers as HOST:PORT, separated by commas."]
    security_protocol: Annotated[str, "`PLAINTEXT`, `SSL`, `SASL_PLAINTEXT` or `SASL_SSL`."] = "PLAINTEXT"
    cafile: Annotated[
        str, "PEM file of the certificate authorities that signed the brokers' certificates. Default: the system's."
    ] = ""
    certfile: Annotated[str, "PEM file of the client certificate, for brokers that require one."] = ""
    keyfile: Annotated[str, "PEM file of the private key. Default: `certfile` contains it."] = ""
    sasl_mechanism: Annotated[str, "`PLAIN`, `SCRAM-SHA-256` or `SCRAM-SHA-512`."] = "PLAIN"
    username: Annotated[str, "SASL user name."] = field(default="", repr=False)
    password: Annotated[str, "SASL password."] = field(default="", repr=False)
    replication_factor: Annotated[
        int,
        "Replication factor of topics that the node creates. 0: the brokers' default, but at least 3 if there are 3.",
    ] = 0


@dataclass(frozen=True, slots=True)
class NodeConfig:
    node: NodeSection
    kafka: KafkaSection
    snapshots: SnapshotsSection
    timing: Mapping[str, int]  # settings that are given, of `records.types.Timing` and `protocol.timing.Timeouts`

    @property
    def advertised_resp(self) -> Address:
        return replace(self.node.resp, host=self.node.advertise or self.node.resp.host)

    @property
    def advertised_http(self) -> Address:
        return replace(self.node.http, host=self.node.advertise or self.node.http.host)

    @property
    def is_protected(self) -> bool:
        """Whether only clients on this machine are served."""
        return not self.node.password and self.node.protected_mode == "yes"

    @property
    def logs(self) -> LogSettings:
        return LogSettings(self.node.log_level, self.node.log_format)

    @property
    def repository(self) -> str:
        """A path, or a URL."""
        return self.snapshots.repository or str(self.node.dir / "snapshots")

    @property
    def copies_dir(self) -> Path:
        """For copies of the store until they are uploaded."""
        return self.node.dir / "copies"

    @property
    def backfill_dir(self) -> Path:
        """For the copy that the change stream begins with."""
        return self.node.dir / "backfill"


def load(
    file: Path | None,
    environment: Mapping[str, str],
    given: Mapping[str, Section],
    *,
    timing_names: Collection[str] = frozenset(),
) -> NodeConfig:
    """`given` by section; a value of None is not given. Raises `ConfigError`, naming the setting.

    `timing_names`: the settings of `[timing]` that are taken from the environment.
    """
    merged = _merged(file, environment, given, timing_names)
    node = _section("node", NodeSection, merged["node"])
    checked_node_id("node.id", node.id)
    checked_name("node.cluster", node.cluster)
    checked_upstream(node.upstream, node.id)
    if node.backlog_mb > MAX_BACKLOG_MB:
        raise ConfigError(f"node.backlog_mb is {node.backlog_mb}: expected 0 to {MAX_BACKLOG_MB}")
    if not 1 <= node.fanout <= MAX_FANOUT:
        raise ConfigError(f"node.fanout is {node.fanout}: expected 1 to {MAX_FANOUT}")
    if node.advertise:
        node = replace(node, advertise=_at("node.advertise", parse_host, node.advertise))
    _check_reachable(node)
    if node.protected_mode not in ("yes", "no"):
        raise ConfigError(f"node.protected_mode is {node.protected_mode!r}: expected yes or no")
    snapshots = _section("snapshots", SnapshotsSection, merged["snapshots"])
    if snapshots.trim not in ("yes", "no"):
        raise ConfigError(f"snapshots.trim is {snapshots.trim!r}: expected yes or no")
    timing = {name: _convert("timing", name, int, value) for name, value in merged["timing"].items()}
    return NodeConfig(node, _kafka_section(merged["kafka"]), snapshots, timing)


def load_kafka(file: Path | None, environment: Mapping[str, str], bootstrap: str | None) -> KafkaSection:
    """The section `[kafka]` alone, for commands that speak to Kafka without being a node. Raises `ConfigError`."""
    return _kafka_section(_merged(file, environment, {"kafka": {"bootstrap": bootstrap}}, frozenset())["kafka"])


def passwords_from_files(environment: MutableMapping[str, str]) -> None:
    """Replace each `REPLICATOR_<SECTION>_PASSWORD_FILE`, as in containers, by the password in that file.

    White space at its end is not part of it, nor is the byte order mark that some editors begin a file with. Raises
    `ConfigError`, also if a password in the environment is invalid.
    """
    for variable in (f"{PREFIX}_NODE_PASSWORD", f"{PREFIX}_KAFKA_PASSWORD"):
        file = environment.pop(f"{variable}_FILE", "")
        if not file:
            checked_password(variable, environment.get(variable, ""))
            continue
        if environment.get(variable):
            raise ConfigError(f"{variable} and {variable}_FILE are both set: unset one of them")
        try:
            password = Path(file).read_text(encoding="utf-8-sig").rstrip()
        except OSError as error:
            raise ConfigError(f"{file} ({variable}_FILE) cannot be read: {error.strerror}") from error
        except UnicodeDecodeError as error:
            raise ConfigError(f"{file} ({variable}_FILE) is not text in UTF-8") from error
        if not password:
            raise ConfigError(f"{file} ({variable}_FILE) is empty: write the password into it")
        environment[variable] = checked_password(f"the password in {file} ({variable}_FILE)", password)


def misspelt(environment: Iterable[str], timing_names: Collection[str]) -> list[tuple[str, str]]:
    """Variables that are not settings, but probably meant as ones, each with the right name."""
    known = {f"{section}_{name}".upper() for section, names in _known(timing_names).items() for name in names}
    found = []
    for variable in environment:
        prefix, _, rest = variable.partition("_")
        if prefix == PREFIX and rest.upper() not in known and not _SERVICE_VARIABLE.fullmatch(variable):
            found += [
                (variable, f"{PREFIX}_{name}") for name in difflib.get_close_matches(rest, sorted(known), 1, _LIKENESS)
            ]
    return found


def _merged(
    file: Path | None, environment: Mapping[str, str], given: Mapping[str, Section], timing_names: Collection[str]
) -> dict[str, dict[str, Any]]:
    from_file = _read(file) if file else {}
    known = _known(timing_names)
    for name in from_file:
        if name not in known:
            raise ConfigError(f"{file}: unknown section [{name}], expected one of {', '.join(sorted(known))}")
    merged: dict[str, dict[str, Any]] = {name: {} for name in known}
    for layer in (from_file, _from_environment(environment, known), given):
        for name, section in layer.items():
            merged[name].update({key: value for key, value in section.items() if value is not None})
    return merged


def _known(timing_names: Collection[str]) -> Mapping[str, Collection[str]]:
    return {
        "node": NodeSection.__dataclass_fields__,
        "kafka": KafkaSection.__dataclass_fields__,
        "snapshots": SnapshotsSection.__dataclass_fields__,
        "timing": timing_names,
    }


def _kafka_section(values: Mapping[str, Any]) -> KafkaSection:
    kafka = _section("kafka", KafkaSection, values)
    return replace(kafka, bootstrap=_at("kafka.bootstrap", checked_bootstrap, kafka.bootstrap))


def _check_reachable(node: NodeSection) -> None:
    """Raises `ConfigError` if others would connect to 0.0.0.0 or [::], which is not the address of a host."""
    if _is_unspecified(node.advertise):
        raise ConfigError(
            f"node.advertise is {node.advertise}, which is not the address of a host: name a host of this machine"
        )
    for name, address in (("resp", node.resp), ("http", node.http)):
        if not node.advertise and _is_unspecified(address.host):
            raise ConfigError(
                f"node.{name} listens at all addresses ({address}): give --advertise HOST (node.advertise), the host "
                "that clients and other nodes connect to"
            )


def _is_unspecified(host: str) -> bool:
    try:
        return ip_address(host).is_unspecified
    except ValueError:
        return False


def _read(file: Path) -> Mapping[str, Section]:
    try:
        content = tomllib.loads(file.read_text())
    except OSError as error:
        raise ConfigError(f"{file} cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file} is not valid TOML: {error}") from error
    for name, section in content.items():
        if not isinstance(section, dict):
            raise ConfigError(
                f"{file}: {name} is outside of a section: move it to [node], [kafka], [snapshots] or [timing]"
            )
    return content


def _from_environment(environment: Mapping[str, str], known: Mapping[str, Collection[str]]) -> Mapping[str, Section]:
    found: dict[str, dict[str, str]] = {}
    for variable, value in environment.items():
        prefix, _, rest = variable.partition("_")
        section, _, name = rest.lower().partition("_")
        if prefix == PREFIX and name in known.get(section, ()):
            found.setdefault(section, {})[name] = value
    return found


def _section(name: str, kind: type[T], values: Mapping[str, Any]) -> T:
    types = get_type_hints(kind)
    check_known(name, values, types)
    arguments = {key: _convert(name, key, types[key], value) for key, value in values.items()}
    for it in fields(kind):  # type: ignore[arg-type]
        if it.name not in arguments and it.default is MISSING and it.default_factory is MISSING:
            variable = f"{PREFIX}_{name}_{it.name}".upper()
            raise ConfigError(f"{name}.{it.name} is required: give the option, set {variable}, or set it in the file")
    return kind(**arguments)


def check_known(section: str, given: Iterable[str], known: Collection[str]) -> None:
    """Raises `ConfigError` with the first given setting that the section does not have."""
    for name in given:
        if name not in known:
            raise ConfigError(f"unknown setting {section}.{name}: the section has {', '.join(sorted(known))}")


def _convert(section: str, name: str, kind: Any, value: Any) -> Any:
    if kind is Address:
        return value if isinstance(value, Address) else _at(f"{section}.{name}", Address.parse, str(value))
    if kind is int:
        return _whole_number(f"{section}.{name}", value)
    if not isinstance(value, str | Path):
        raise ConfigError(f"{section}.{name} must be a string: write it in quotes")
    setting, text = f"{section}.{name}", str(value)
    if name == "password":
        return checked_password(setting, text)
    if _CONTROL.search(text):
        raise ConfigError(f"{setting} is {text!r}: remove the line break or NUL in it")
    if issubclass(kind, StrEnum):
        return _one_of(setting, kind, text)
    return text if kind is str else expanded(setting, text)


def _one_of(setting: str, kind: type[StrEnum], text: str) -> StrEnum:
    if text not in list(kind):
        raise ConfigError(f"{setting} is {text!r}: expected one of {', '.join(kind)}")
    return kind(text)


def _at(setting: str, parse: Callable[[str], T], text: str) -> T:
    """Names the setting in the error. Raises `ConfigError`."""
    try:
        return parse(text)
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
    raise ConfigError(f"{setting} is {value!r}: expected a whole number, 0 or more")
