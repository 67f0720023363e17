"""Expiry: the leader deletes a key once it has expired by its clock."""

from __future__ import annotations

from replicator.errors import BadRequest
from replicator.server.keyspace import Keyspace, WritableKeyspace
from replicator.server.redis.command import Args
from replicator.server.redis.commands.registry import integer, read, write
from replicator.server.redis.resp import Reply

_UNIT_MS = {b"ex": 1000, b"px": 1, b"exat": 1000, b"pxat": 1}
_RELATIVE = (b"ex", b"px")


def deadline_ms(amount: bytes, unit: bytes, time_ms: int, command: str) -> int:
    """The time (ms since 1970) that an amount of `ex`, `px`, `exat` or `pxat` means. Raises `BadRequest`."""
    number = integer(amount) * _UNIT_MS[unit]
    when = number + time_ms if unit in _RELATIVE else number
    if number <= 0 or when >= 2**63:
        raise BadRequest(f"invalid expire time in '{command}' command")
    return when


_CONDITIONS = (b"nx", b"xx", b"gt", b"lt")


def _expire(keyspace: WritableKeyspace, args: Args, unit: bytes, name: str) -> int:
    conditions = {word.lower() for word in args[3:]}
    for word in args[3:]:
        if word.lower() not in _CONDITIONS:
            raise BadRequest(f"Unsupported option {word.decode(errors='replace')}")
    if b"nx" in conditions and len(conditions) > 1:
        raise BadRequest("NX and XX, GT or LT options at the same time are not compatible")
    if {b"gt", b"lt"} <= conditions:
        raise BadRequest("GT and LT options at the same time are not compatible")
    number = integer(args[2]) * _UNIT_MS[unit]
    when = number + keyspace.now_ms if unit in _RELATIVE else number
    if not -(2**63) <= when < 2**63:
        raise BadRequest(f"invalid expire time in '{name}' command")
    value = keyspace.header(args[1])
    if value is None:
        return 0
    current = value.expires_at_ms
    refused = (
        (b"nx" in conditions and current is not None)
        or (b"xx" in conditions and current is None)
        or (b"gt" in conditions and (current is None or when <= current))
        or (b"lt" in conditions and current is not None and when >= current)
    )
    if refused:
        return 0
    if when <= keyspace.now_ms:
        keyspace.remove(args[1])
    else:
        keyspace.set_expiry(args[1], value, when)
    return 1


@write("expire", -3)
def expire(keyspace: WritableKeyspace, args: Args) -> Reply:
    return _expire(keyspace, args, b"ex", "expire")


@write("pexpire", -3)
def pexpire(keyspace: WritableKeyspace, args: Args) -> Reply:
    return _expire(keyspace, args, b"px", "pexpire")


@write("expireat", -3)
def expireat(keyspace: WritableKeyspace, args: Args) -> Reply:
    return _expire(keyspace, args, b"exat", "expireat")


@write("pexpireat", -3)
def pexpireat(keyspace: WritableKeyspace, args: Args) -> Reply:
    return _expire(keyspace, args, b"pxat", "pexpireat")


@write("persist", 2)
def persist(keyspace: WritableKeyspace, args: Args) -> Reply:
    value = keyspace.header(args[1])
    if value is None or value.expires_at_ms is None:
        return 0
    keyspace.set_expiry(args[1], value, None)
    return 1


def _left_ms(keyspace: Keyspace, key: bytes) -> int:
    """-2: there is no such key, -1: it does not expire."""
    value = keyspace.header(key)
    if value is None:
        return -2
    if value.expires_at_ms is None:
        return -1
    return max(0, value.expires_at_ms - keyspace.now_ms)


@read("ttl", 2)
def ttl(keyspace: Keyspace, args: Args) -> Reply:
    left = _left_ms(keyspace, args[1])
    return left if left < 0 else (left + 500) // 1000


@read("pttl", 2)
def pttl(keyspace: Keyspace, args: Args) -> Reply:
    return _left_ms(keyspace, args[1])


@read("expiretime", 2)
def expiretime(keyspace: Keyspace, args: Args) -> Reply:
    when = _when(keyspace, args[1])
    return when if when < 0 else (when + 500) // 1000


@read("pexpiretime", 2)
def pexpiretime(keyspace: Keyspace, args: Args) -> Reply:
    return _when(keyspace, args[1])


def _when(keyspace: Keyspace, key: bytes) -> int:
    value = keyspace.header(key)
    if value is None:
        return -2
    return -1 if value.expires_at_ms is None else value.expires_at_ms
