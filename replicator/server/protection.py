"""Protected mode, as in Redis: without a password, only clients on this machine are served.

A client on this machine may be a browser that runs a page of somebody else. A page cannot set the content type of a
request to another site without asking first, cannot hide its `Origin`, and, if its own host name is made to point here,
cannot hide that name in `Host`.
"""

from __future__ import annotations

import hmac
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
    try:
        host = urlsplit(f"//{header}").hostname or ""
    except ValueError:  # such as an unclosed bracket
        return False
    return _ip_address(host) is not None or host == "localhost" or host in {name.lower() for name in own}


def is_same_site(origin: str | None, host: str) -> bool:
    """Whether a request with these headers `Origin` and `Host` does not come from a page of another site."""
    if origin is None:
        return True
    try:
        return urlsplit(origin).netloc.lower() == host.lower()
    except ValueError:
        return False


def is_bearer(header: str, password: str) -> bool:
    """Whether an `Authorization` header has the password, in UTF-8. It may have any bytes."""
    expected = f"Bearer {password}".encode(errors="surrogateescape")
    return hmac.compare_digest(header.encode(errors="surrogateescape"), expected)


def _ip_address(host: str) -> IPv4Address | IPv6Address | None:
    try:
        return ip_address(host.partition("%")[0])
    except ValueError:
        return None
