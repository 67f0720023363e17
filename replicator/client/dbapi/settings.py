"""The parameters of a connection, also as the text of a DSN."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from replicator.errors import BadRequest, ConfigError
from replicator.protocol.levels import LINEARIZABLE, Level, LevelKind, parse_level

SCHEME = "replicator"
_BOOLEANS = {"true": True, "1": True, "false": False, "0": False}


class Isolation(StrEnum):
    READ_COMMITTED = "read committed"  # a transaction begins with its first write
    SERIALIZABLE = "serializable"  # a transaction begins with its first statement


@dataclass(frozen=True, slots=True)
class ConnectionSettings:
    nodes: tuple[str, ...] = ()
    cluster: str = "replicator"
    password: str = field(default="", repr=False)
    level: Level = LINEARIZABLE  # of a session without a token: reads include what the connection has written and read
    isolation: Isolation = Isolation.READ_COMMITTED
    autocommit: bool = False
    timeout_s: float = 10.0


def parse_settings(dsn: str | None, given: Mapping[str, Any]) -> ConnectionSettings:
    """`given`: parameters that override those of the DSN, unless they are None. Raises `ConfigError`, `BadRequest`."""
    values = {**(parse_dsn(dsn) if dsn else {}), **{name: it for name, it in given.items() if it is not None}}
    settings = ConnectionSettings()
    for name, value in values.items():
        settings = replace(settings, **{name: _parse(name, value)})
    return settings


def parse_dsn(dsn: str) -> dict[str, Any]:
    """`replicator://:PASSWORD@HOST:PORT,HOST:PORT/?level=session`; `&host=HOST:PORT` names a node, too.

    Raises `ConfigError`.
    """
    if not isinstance(dsn, str):
        raise ConfigError("the DSN is a text: give addresses in a list as nodes=[…]")
    try:
        parts = urlsplit(dsn)
        options = parse_qsl(parts.query, strict_parsing=bool(parts.query))
    except ValueError:
        raise ConfigError("the DSN is invalid: expected replicator://HOST:PORT/?NAME=VALUE") from None
    if parts.scheme != SCHEME or parts.path not in ("", "/") or parts.fragment:
        raise ConfigError(f"the DSN is invalid: expected {SCHEME}://:PASSWORD@HOST:PORT,HOST:PORT/?NAME=VALUE")
    access, _, hosts = parts.netloc.rpartition("@")
    user, _, password = access.partition(":")
    if user:
        raise ConfigError("the DSN has a user: nodes have a password only, as in replicator://:PASSWORD@HOST:PORT/")
    return parse_options(filter(None, hosts.split(",")), unquote(password), options)


def parse_options(nodes: Any, password: str, options: Sequence[tuple[str, str]]) -> dict[str, Any]:
    """The parameters of a URL. Raises `ConfigError`."""
    found: dict[str, Any] = {"nodes": (*nodes, *(value for name, value in options if name == "host"))}
    if password:
        found["password"] = password
    for name, value in options:
        if name in ("cluster", "level", "isolation", "autocommit", "timeout_s"):
            found[name] = value
        elif name != "host":
            raise ConfigError(f"unknown parameter {name!r}: use host, cluster, level, isolation, autocommit, timeout_s")
    return found


def _parse(name: str, value: Any) -> Any:
    """Raises `ConfigError`, `BadRequest`."""
    match name:
        case "nodes":
            return value.split(",") if isinstance(value, str) else tuple(value)
        case "level":
            return value if isinstance(value, Level) else parse_level_name(value)
        case "isolation":
            return parse_isolation(value)
        case "autocommit":
            return _parse_boolean(name, value)
        case "timeout_s":
            return _parse_seconds(value)
    return value


def parse_level_name(text: str) -> Level:
    """Raises `BadRequest`."""
    if text == LevelKind.SESSION:
        return Level(LevelKind.SESSION)
    unknown = BadRequest(f"unknown read level {text[:80]!r}: use linearizable, session, bounded MS or eventual")
    words = text.split()
    if not words or words[0].lower() not in list(LevelKind):
        raise unknown
    level, used = parse_level(words)
    if used < len(words):
        raise unknown
    return level


def parse_isolation(text: str) -> Isolation:
    """Raises `ConfigError`."""
    try:
        return Isolation(text.lower().replace("_", " "))
    except ValueError:
        raise ConfigError(f"unknown isolation {text[:80]!r}: use {' or '.join(Isolation)}") from None


def _parse_boolean(name: str, value: Any) -> bool:
    if isinstance(value, bool):
        return value
    try:
        return _BOOLEANS[value.lower()]
    except (AttributeError, KeyError):
        raise ConfigError(f"invalid {name} {value!r}: use true or false") from None


def _parse_seconds(value: Any) -> float:
    try:
        seconds = float(value)
    except (TypeError, ValueError):
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise ConfigError(f"invalid timeout_s {value!r}: use a number of seconds")
    return seconds
