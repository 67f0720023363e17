"""Protected mode, as in Redis: without a password, only clients on this machine are served.

A client on this machine may be a browser that runs a page of somebody else. A page cannot set the content type of a
request to another site without asking first, cannot hide its `Origin`, and, if its own host name is made to point here,
cannot hide that name in `Host`.
"""

from __future__ import annotations

from collections.abc import Collection
from ipaddress import IPv4Address, IPv6Address, ip_address
from urllib.parse import urlsplit

HOW_TO_OPEN = (
    "this node has no password, so it serves clients on its own machine only (protected mode). Set the same password "
    "for all nodes and clients (REPLICATOR_NODE_PASSWORD); or, in a network that you trust, set "
    "REPLICATOR_NODE_PROTECTED_MODE=no"
)


def is_loopback(host: str) -> bool:
    address = _ip_address(host)
    if isinstance(address, IPv6Address) and address.ipv4_mapped:
        return address.ipv4_mapped.is_loopback
    return address is not None and address.is_loopback


def is_own_host(header: str, own: Collection[str]) -> bool:
    """Whether a `Host` header names this node: by an IP address, as `localhost`, or by one of its own names."""
    host = urlsplit(f"//{header}").hostname or ""
    return _ip_address(host) is not None or host == "localhost" or host in {name.lower() for name in own}


def is_same_site(origin: str | None, host: str) -> bool:
    """Whether a request with these headers `Origin` and `Host` does not come from a page of another site."""
    return origin is None or urlsplit(origin).netloc.lower() == host.lower()


def _ip_address(host: str) -> IPv4Address | IPv6Address | None:
    try:
        return ip_address(host.partition("%")[0])
    except ValueError:
        return None
