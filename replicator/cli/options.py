"""Options of several commands."""

from __future__ import annotations

import contextlib
import os
import re
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import Annotated, TypeVar

import typer

from replicator.address import Address
from replicator.config import checked_bootstrap, checked_name, load_kafka
from replicator.errors import ConfigError
from replicator.local.folder import ClusterFolder
from replicator.log.kafka.security import KafkaSecurity, security_of
from replicator.position import Offset
from replicator.snapshots.repository import Repository

E = TypeVar("E", bound=StrEnum)
V = TypeVar("V")

DEFAULT_DIR = Path("replicator-data")


def parse_address(text: str) -> Address:
    """Raises `BadParameter`."""
    try:
        return Address.parse(text)
    except ConfigError as error:
        raise typer.BadParameter(str(error)) from None


def parse_bootstrap(text: str) -> str:
    """Raises `BadParameter`."""
    try:
        return checked_bootstrap(text)
    except ConfigError as error:
        raise typer.BadParameter(str(error)) from None


_DURATION = re.compile(r"([0-9]{1,9})(ms|s|m|h|d)")
_UNITS_MS = {"ms": 1, "s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}


def parse_duration(text: str) -> int:
    """Milliseconds. Raises `BadParameter`."""
    match = _DURATION.fullmatch(text)
    if match is None:
        raise typer.BadParameter(f"invalid time {text!r}: expected a number and a unit (ms, s, m, h or d), such as 12h")
    return int(match[1]) * _UNITS_MS[match[2]]


def moment(text: str, now: datetime | None = None) -> datetime | None:
    """A time such as 2026-01-31T12:00, or how long ago, such as 10m; None if it is neither."""
    with contextlib.suppress(typer.BadParameter, OverflowError):
        return (now or datetime.now().astimezone()) - timedelta(milliseconds=parse_duration(text))
    with contextlib.suppress(ValueError, OverflowError):
        return datetime.fromisoformat(text).astimezone()
    return None


def parse_target(offset: int | None, time: str | None, hint: str = "--time") -> Offset | datetime | None:
    """A `RecoveryTarget`, if there is one. `hint`: the option of the time. Raises `BadParameter`."""
    if time is None:
        return None if offset is None else Offset(offset)
    if offset is not None:
        raise typer.BadParameter("give an offset or a time, not both", param_hint=hint)
    found = moment(time)
    if found is None:
        raise typer.BadParameter(
            f"invalid {time!r}: expected a time such as 2026-01-31T12:00, or how long ago (30s, 10m, 2h or 1d)",
            param_hint=hint,
        )
    return found


def choice(kind: type[E]) -> Callable[[str], E]:
    """A parser for one of these values: the error that typer itself would print depends on its version."""

    def parse(text: str) -> E:
        if text not in list(kind):
            raise typer.BadParameter(f"{text!r} is none of {', '.join(kind)}")
        return kind(text)

    return parse


def choices(kind: type[StrEnum]) -> str:
    """As the value of an option is shown."""
    return "|".join(kind)


def without_folder(context: typer.Context, parameter: typer.CallbackParam, value: V) -> V | None:
    """The environment of a node, as in its container, does not count where there is the folder of a cluster."""
    source = context.get_parameter_source(str(parameter.name))
    from_environment = source is not None and source.name == "ENVIRONMENT"
    folder = ClusterFolder(context.params.get("dir") or DEFAULT_DIR)
    return None if from_environment and folder.exists() else value


Dir = Annotated[
    Path,
    typer.Option("--dir", envvar="REPLICATOR_DIR", help="The folder of the cluster.", show_default=True),
]
Connect = Annotated[
    Address | None,
    typer.Option(
        "--connect",
        envvar="REPLICATOR_CONNECT",
        callback=without_folder,
        metavar="HOST:PORT",
        parser=parse_address,
        help="HTTP or Redis port of any node of the cluster.",
    ),
]
Bootstrap = Annotated[
    str | None,
    typer.Option(
        metavar="HOST:PORT", parser=parse_bootstrap, help="A running Kafka; by default one is started on this machine."
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Password = Annotated[
    str,
    typer.Option(
        "--password",
        envvar="REPLICATOR_NODE_PASSWORD",
        show_default=False,
        show_envvar=True,
        help="The cluster's password; better set in the environment.",
    ),
]


def environment_password() -> str:
    return os.environ.get("REPLICATOR_NODE_PASSWORD", "")


def check_writable(option: str, file: Path) -> None:
    """Before work that takes long. Raises `BadParameter`."""
    target = file if file.exists() else file.absolute().parent
    if file.is_dir() or not target.exists() or not os.access(target, os.W_OK):
        why = f"{file} cannot be written: name a file in a folder that exists and is writable"
        raise typer.BadParameter(why, param_hint=option)


KafkaBootstrap = Annotated[
    str | None,
    typer.Option("--bootstrap", metavar="HOST:PORT", parser=parse_bootstrap, help="Kafka, without a cluster folder."),
]
KafkaCluster = Annotated[
    str | None,
    typer.Option(
        "--cluster",
        envvar="REPLICATOR_NODE_CLUSTER",
        callback=without_folder,
        help="The cluster's name, without a cluster folder.",
    ),
]
KafkaConfig = Annotated[
    Path | None, typer.Option("--config", help="A TOML file whose section kafka has the TLS and SASL settings.")
]


@dataclass(frozen=True, slots=True)
class KafkaOfCluster:
    bootstrap: str
    cluster: str
    security: KafkaSecurity


RepositoryUrl = Annotated[
    str | None,
    typer.Option(
        "--repository",
        envvar="REPLICATOR_SNAPSHOTS_REPOSITORY",
        callback=without_folder,
        metavar="URL",
        help="A folder, or s3://bucket/prefix; by default that of the cluster in --dir.",
    ),
]


def open_repository(dir: Path, url: str | None, *, needs_one: bool = True) -> Repository:
    """The repository of snapshots at the URL, or that of the folder.

    `needs_one`: that of the folder, too, must exist. Raises `ConfigError`, `RepositoryUnavailable`.
    """
    if url is None:
        folder = ClusterFolder(dir)
        cluster = folder.load()
        found = Repository(folder.repository(cluster))
        if not needs_one or not cluster.snapshots:  # the folder's own is created by the first snapshot
            return found
    else:
        found = Repository(url)
    found.check_exists()
    return found


def views_folder(dir: Path) -> Path:
    """The folder of temporary stores."""
    return dir / "views" if ClusterFolder(dir).exists() else Path(tempfile.gettempdir()) / "replicator-views"


def find_kafka(dir: Path, bootstrap: str | None, cluster: str | None, config: Path | None) -> KafkaOfCluster:
    """The Kafka that the options name, or that of the folder, also of a cluster from which that one was restored.

    Raises `ConfigError`.
    """
    if bootstrap is not None and cluster is None:
        raise ConfigError("give both --bootstrap and --cluster, or the folder of a cluster with --dir")
    if cluster is None:
        file = ClusterFolder(dir).load()
        bootstrap, cluster = file.bootstrap, file.name
    elif bootstrap is None and ClusterFolder(dir).exists() and cluster in (file := ClusterFolder(dir).load()).former:
        bootstrap = file.bootstrap
    kafka = load_kafka(config, os.environ, bootstrap)
    return KafkaOfCluster(kafka.bootstrap, checked_name("--cluster", cluster), security_of(kafka))
