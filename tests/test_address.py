"""Addresses as text, and back."""

from __future__ import annotations

import pytest

from replicator.address import UNKNOWN, Address, parse_host
from replicator.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("127.0.0.1:7001", "127.0.0.1", 7001),
        ("n1:1", "n1", 1),
        ("db-1.example.org:0", "db-1.example.org", 0),
        ("[::1]:7001", "::1", 7001),
        ("[fe80::1%eth0]:65535", "fe80::1%eth0", 65535),
    ],
)
def test_an_address_and_its_text(text: str, host: str, port: int) -> None:
    assert Address.parse(text) == Address.from_record(text) == Address(host, port)
    assert str(Address(host, port)) == text
    assert Address(host, port).url("/status") == f"http://{text}/status"


@pytest.mark.parametrize(
    "text",
    [
        *("", ":", "host", "7001", "host:", ":7001", "host:port", "host:-1", "host:70000", "host:²", "host:7 "),
        *("a b:1", "http://host:1", "host:1/path", "[host]:1", "[::1]", "[]:1", "[::1:1", "::1]:1"),
        *("n1..example.org:1", ".example.org:1", f"{'a' * 64}.org:1"),
    ],
)
def test_invalid_addresses_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=r"invalid address .*: expected HOST:PORT, for example 127\.0\.0\.1:7001"):
        Address.parse(text)


@pytest.mark.parametrize("text", ["::1:7001", "::1", "2001:db8::1:7001"])
def test_an_ipv6_host_needs_brackets(text: str) -> None:
    with pytest.raises(ConfigError, match=r"write an IPv6 host in brackets, for example \[::1\]:7001"):
        Address.parse(text)


@pytest.mark.parametrize(
    ("text", "address"),
    [("::1:7001", Address("::1", 7001)), ("", UNKNOWN), ("here", UNKNOWN), ("h:70000", UNKNOWN), (":1", UNKNOWN)],
)
def test_an_address_in_a_record_is_never_refused(text: str, address: Address) -> None:
    assert Address.from_record(text) == address
    assert Address.from_record(str(address)) == address


def test_a_host() -> None:
    assert [parse_host(text) for text in ("db1", "::1", "[::1]", "10.0.0.1")] == ["db1", "::1", "::1", "10.0.0.1"]
    for text in ("", "db1:7001", "[::1]:7001", "[db1]", "a b", "http://db1"):
        with pytest.raises(ConfigError, match="expected a host name or an IP address without a port"):
            parse_host(text)


def test_an_error_does_not_show_a_password() -> None:
    with pytest.raises(ConfigError, match=r"invalid address: expected HOST:PORT without '@'"):
        Address.parse("replicator://:hunter2@127.0.0.1:7001")
