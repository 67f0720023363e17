"""Where something listens: a host and a port."""

from __future__ import annotations

from dataclasses import dataclass

from replicator.errors import ConfigError

_MAX_PORT = 65535


@dataclass(frozen=True, slots=True)
class Address:
    host: str
    port: int

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


def address(text: str) -> Address:
    """HOST:PORT. Raises `ConfigError`."""
    host, colon, port = text.rpartition(":")
    if not (host and colon and port.isdigit() and int(port) <= _MAX_PORT):
        raise ConfigError(f"{text!r} is no address: write HOST:PORT, for instance 127.0.0.1:7001")
    return Address(host, int(port))
