"""Hashes."""

from __future__ import annotations

from itertools import islice

from replicator.errors import BadRequest
from replicator.server.keyspace import Keyspace, WritableKeyspace
from replicator.server.redis.command import Args
from replicator.server.redis.commands.registry import integer, long_read, read, write, wrong_arity
from replicator.server.redis.commands.strings import OVERFLOW, add_decimals, decimal, or_zero
from replicator.server.redis.resp import OK, Reply
from replicator.steps import Steps


@write("hset", -4)
def hset(keyspace: WritableKeyspace, args: Args) -> Reply:
    if len(args) % 2:
        raise wrong_arity(b"hset")
    return keyspace.put_fields(args[1], dict(zip(args[2::2], args[3::2], strict=True)))


@write("hmset", -4)
def hmset(keyspace: WritableKeyspace, args: Args) -> Reply:
    if len(args) % 2:
        raise wrong_arity(b"hmset")
    hset(keyspace, args)
    return OK


@write("hsetnx", 4)
def hsetnx(keyspace: WritableKeyspace, args: Args) -> Reply:
    if keyspace.hash_field(args[1], args[2]) is not None:
        return 0
    return keyspace.put_fields(args[1], {args[2]: args[3]})


@read("hget", 3)
def hget(keyspace: Keyspace, args: Args) -> Reply:
    return keyspace.hash_field(args[1], args[2])


@long_read("hmget", -3)
def hmget(keyspace: Keyspace, args: Args) -> Steps[Reply]:
    found: list[Reply] = []
    for name in islice(args, 2, None):
        data = keyspace.hash_field(args[1], name)
        found.append(data)
        yield len(data or b"")
    return found


@long_read("hgetall", 2)
def hgetall(keyspace: Keyspace, args: Args) -> Steps[Reply]:
    found: dict[bytes, Reply] = {}
    for name, data in keyspace.hash_fields(args[1]):
        found[name] = data
        yield len(name) + len(data)
    return found


@long_read("hkeys", 2)
def hkeys(keyspace: Keyspace, args: Args) -> Steps[Reply]:
    found: list[Reply] = []
    for name, _ in keyspace.hash_fields(args[1]):
        found.append(name)
        yield len(name)
    return found


@long_read("hvals", 2)
def hvals(keyspace: Keyspace, args: Args) -> Steps[Reply]:
    found: list[Reply] = []
    for _, data in keyspace.hash_fields(args[1]):
        found.append(data)
        yield len(data)
    return found


@read("hlen", 2)
def hlen(keyspace: Keyspace, args: Args) -> Reply:
    return keyspace.hash_size(args[1])


@read("hexists", 3)
def hexists(keyspace: Keyspace, args: Args) -> Reply:
    return int(keyspace.hash_field(args[1], args[2]) is not None)


@read("hstrlen", 3)
def hstrlen(keyspace: Keyspace, args: Args) -> Reply:
    return len(keyspace.hash_field(args[1], args[2]) or b"")


@write("hdel", -3)
def hdel(keyspace: WritableKeyspace, args: Args) -> Reply:
    return keyspace.remove_fields(args[1], args[2:])


@write("hincrby", 4)
def hincrby(keyspace: WritableKeyspace, args: Args) -> Reply:
    amount = integer(args[3])
    number = integer(or_zero(keyspace.hash_field(args[1], args[2])), "hash value is not an integer") + amount
    if not -(2**63) <= number < 2**63:
        raise BadRequest(OVERFLOW)
    keyspace.put_fields(args[1], {args[2]: b"%d" % number})
    return number


@write("hincrbyfloat", 4)
def hincrbyfloat(keyspace: WritableKeyspace, args: Args) -> Reply:
    amount = decimal(args[3], "value is not a valid float")
    if not amount.is_finite():
        raise BadRequest("value is NaN or Infinity")
    number = decimal(or_zero(keyspace.hash_field(args[1], args[2])), "hash value is not a float")
    data = add_decimals(number, amount)
    keyspace.put_fields(args[1], {args[2]: data})
    return data
