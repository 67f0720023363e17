"""A host and a port: where a server listens, or where others reach it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from ipaddress import IPv6Address

from replicator.errors import ConfigError

_MAX_PORT = 65535
_NAME = re.compile(r"[^\s:/@?#\[\]]+")  # a host name or an IPv4 address


@dataclass(frozen=True, slots=True)
class Address:
    """As text `host:port`, with an IPv6 host in brackets: `[::1]:7001`."""

    host: str  # an IPv6 address without brackets
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @classmethod
    def parse(cls, text: str) -> Address:
        """Raises `ConfigError`."""
        host, _, port = text.rpartition(":")
        if _is_ipv6(text) or _is_ipv6(host):
            raise ConfigError(f"invalid address {text!r}: write an IPv6 host in brackets, for example [::1]:7001")
        try:
            host = parse_host(host)
        except ConfigError:
            host = ""
        if not (host and _is_port(port)):
            if "@" in text:
                raise ConfigError(
                    "invalid address: expected HOST:PORT without '@', for example 127.0.0.1:7001 (it is not shown, as "
                    "it may contain a password)"
                )
            raise ConfigError(f"invalid address {text!r}: expected HOST:PORT, for example 127.0.0.1:7001")
        return cls(host, int(port))

    @classmethod
    def from_record(cls, text: str) -> Address:
        """An address as a log, a store or a node's JSON has it. Never raises: it must not make a record unreadable.

        Differs from `parse` in two ways: the last colon separates the port also of an IPv6 host without brackets, and
        a text that is not an address at all is `UNKNOWN`.
        """
        host, _, port = text.rpartition(":")
        host = host.removeprefix("[").removesuffix("]")
        return cls(host, int(port)) if host and _is_port(port) else UNKNOWN

    def url(self, path: str = "") -> str:
        """`path` begins with a slash."""
        return f"http://{self}{path}"


UNKNOWN = Address("?", 0)


def parse_host(text: str) -> str:
    """A host without a port; an IPv6 address may be in brackets, and is returned without. Raises `ConfigError`."""
    bare = text[1:-1] if text.startswith("[") and text.endswith("]") else text
    if _is_ipv6(bare) or (bare == text and _is_name(text)):
        return bare
    raise ConfigError(f"invalid host {text!r}: expected a host name or an IP address without a port")


def _is_port(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= 5 and int(text) <= _MAX_PORT


def _is_name(text: str) -> bool:
    """Whether it can be looked up: no label is empty or too long."""
    try:
        text.encode("idna")
    except UnicodeError:
        return False
    return _NAME.fullmatch(text) is not None


def _is_ipv6(text: str) -> bool:
    try:
        IPv6Address(text)
    except ValueError:
        return False
    return True
