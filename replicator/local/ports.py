"""Ports on the loopback interface."""

from __future__ import annotations

import random
import socket
from collections.abc import Iterator
from itertools import islice

from replicator.errors import ConfigError

HTTP_ABOVE_RESP = 1000  # a node's HTTP port is that much higher than its port for Redis clients

_BASE_PORTS = range(13_001, 19_000, 10)
_RANDOM_PORTS = range(20_000, 32_000)  # below the range that outgoing connections use: free at the next start, too


def check_free(port: int) -> None:
    """Raises `ConfigError` if nothing can listen on the port."""
    with socket.socket() as probe:
        # Nodes and the broker listen with this option: connections in TIME_WAIT do not block the port.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OverflowError:
            raise ConfigError(f"port {port} is out of range: choose a lower --base-port") from None
        except OSError as error:
            raise ConfigError(
                f"port {port} is not available ({error.strerror}): stop the program that uses it, or choose another "
                "--base-port"
            ) from None


def is_free(port: int) -> bool:
    try:
        check_free(port)
    except ConfigError:
        return False
    return True


def free_base_port(count: int) -> int:
    """A base port for `count` nodes: their ports for Redis clients and for HTTP are free. Raises `ConfigError`.

    It is random, so that programs which look for ports at the same time rarely choose the same ones.
    """
    for base in random.sample(_BASE_PORTS, len(_BASE_PORTS)):
        if all(map(is_free, _ports(base, count))):
            return base
    raise ConfigError(f"no free ports between {_BASE_PORTS[0]} and {_BASE_PORTS[-1]}")


def check_base_port(base: int, count: int) -> None:
    """Raises `ConfigError` if a port of one of `count` nodes is not free."""
    for port in _ports(base, count):
        check_free(port)


def _ports(base: int, count: int) -> Iterator[int]:
    for index in range(count):
        yield base + index
        yield base + HTTP_ABOVE_RESP + index


def random_free_port() -> int:
    """Raises `ConfigError`."""
    return random_free_ports(1)[0]


def random_free_ports(count: int) -> list[int]:
    """Different ones. Raises `ConfigError`."""
    found = list(islice(filter(is_free, random.sample(_RANDOM_PORTS, 1_000)), count))
    if len(found) < count:
        raise ConfigError("not enough free ports between 20000 and 32000: choose one with --port")
    return found
