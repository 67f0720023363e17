"""Commands on keys of any type."""

from __future__ import annotations

from itertools import islice

from replicator.errors import BadRequest
from replicator.server.keyspace import TYPES, Keyspace, WritableKeyspace
from replicator.server.redis.command import Args
from replicator.server.redis.commands.registry import long_read, read, write
from replicator.server.redis.resp import OK, Reply, Simple
from replicator.steps import Steps


@write("del", -2, (1, -1, 1))
def delete(keyspace: WritableKeyspace, args: Args) -> Reply:
    return sum(keyspace.remove(key) for key in args[1:])


@write("unlink", -2, (1, -1, 1))
def unlink(keyspace: WritableKeyspace, args: Args) -> Reply:
    return delete(keyspace, args)


@long_read("exists", -2, (1, -1, 1))
def exists(keyspace: Keyspace, args: Args) -> Steps[Reply]:
    count = 0
    for key in islice(args, 1, None):
        count += keyspace.header(key) is not None
        yield 0
    return count


@long_read("touch", -2, (1, -1, 1))
def touch(keyspace: Keyspace, args: Args) -> Steps[Reply]:
    return exists(keyspace, args)


@read("type", 2)
def type_(keyspace: Keyspace, args: Args) -> Reply:
    value = keyspace.header(args[1])
    return Simple(b"none" if value is None else TYPES[value.tag])


@read("dbsize", 1, (0, 0, 0))
def dbsize(keyspace: Keyspace, args: Args) -> Reply:
    return keyspace.size()


@write("rename", 3, (1, 2, 1))
def rename(keyspace: WritableKeyspace, args: Args) -> Reply:
    if keyspace.header(args[1]) is None:
        raise BadRequest("no such key")
    if args[1] != args[2]:
        keyspace.rename(args[1], args[2])
    return OK


@write("renamenx", 3, (1, 2, 1))
def renamenx(keyspace: WritableKeyspace, args: Args) -> Reply:
    if keyspace.header(args[1]) is None:
        raise BadRequest("no such key")
    if keyspace.header(args[2]) is not None:
        return 0
    keyspace.rename(args[1], args[2])
    return 1
