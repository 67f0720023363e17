"""Commands on the server and the cluster."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator

from replicator.errors import BadRequest, ReplicatorError
from replicator.node.health import NodeState
from replicator.patterns import globs
from replicator.position import BEFORE_LOG, Offset
from replicator.server.keyspace import WritableKeyspace
from replicator.server.redis.command import Args, Command
from replicator.server.redis.commands.registry import (
    COMMANDS,
    SYNTAX,
    connection,
    control,
    integer,
    keys_of,
    refuse_in_multi,
    wrong_arity,
)
from replicator.server.redis.context import ConnectionContext
from replicator.server.redis.info import sections
from replicator.server.redis.keyspace_events import check_wanted
from replicator.server.redis.resp import OK, Encoded, Reply, Simple, Verbatim
from replicator.server.redis.topology import leader_address, observe, online_replicas, shown_offset
from replicator.store.view import Transaction

NOT_POSITIVE = "value is out of range, must be positive"


@connection("info", -1)
def info(connection: ConnectionContext, args: Args) -> Reply:
    wanted = {word.lower() for word in args[1:]} - {b"all", b"everything", b"default"}
    parts = [
        b"# %b\r\n%b" % (name.capitalize(), b"".join(b"%b:%b\r\n" % pair for pair in pairs))
        for name, pairs in sections(connection.server)
        if not wanted or name in wanted
    ]
    return Verbatim(b"\r\n".join(parts))


@connection("role", 1)
def role(connection: ConnectionContext, args: Args) -> Reply:
    backend = connection.server.backend
    status, offset = backend.status(), shown_offset(backend)
    if status.role.leads:
        replicas: list[Reply] = [
            [it.address.host.encode(), b"%d" % it.address.port, b"%d" % it.offset] for it in online_replicas(backend)
        ]
        return [b"master", offset, replicas]
    address = leader_address(backend)
    if status.state is NodeState.CATCHING_UP:
        link = b"sync"
    else:
        link = b"connect" if observe(backend).leader_down else b"connected"
    return [b"slave", address.host.encode(), address.port, link, offset]


@control("wait", 3)
def wait(connection: ConnectionContext, args: Args) -> None:
    refuse_in_multi(connection, "WAIT cannot be part of a transaction: send it after EXEC")
    replicas, timeout_ms = integer(args[1]), _timeout_ms(args[2])
    _require_leader(connection, "WAIT")
    if not connection.wait_for_own_writes(args):
        connection.wait_for(_wait(connection, replicas, timeout_ms, lambda acked: acked))


@control("waitaof", 4)
def waitaof(connection: ConnectionContext, args: Args) -> None:
    """WAITAOF numlocal numreplicas timeout: the log is the append-only file, and every acknowledged write is in it."""
    refuse_in_multi(connection, "WAITAOF cannot be part of a transaction: send it after EXEC")
    if integer(args[1]) not in (0, 1):
        raise BadRequest("value is out of range, value must between 0 and 1")
    replicas, timeout_ms = integer(args[2], NOT_POSITIVE), _timeout_ms(args[3])
    if replicas < 0:
        raise BadRequest(NOT_POSITIVE)
    _require_leader(connection, "WAITAOF")
    if not connection.wait_for_own_writes(args):
        connection.wait_for(_wait(connection, replicas, timeout_ms, lambda acked: [1, acked]))


def _timeout_ms(text: bytes) -> int:
    """Raises `BadRequest`."""
    timeout_ms = integer(text, "timeout is not an integer or out of range")
    if timeout_ms < 0:
        raise BadRequest("timeout is negative")
    return timeout_ms


def _require_leader(connection: ConnectionContext, name: str) -> None:
    if not connection.server.backend.leads:
        raise BadRequest(f"{name} cannot be used with replica instances.")


async def _wait(connection: ConnectionContext, replicas: int, timeout_ms: int, reply: Callable[[int], Reply]) -> None:
    offset = max(connection.last_offset, BEFORE_LOG)
    connection.reply(reply(await connection.server.backend.wait_acked(offset, replicas, timeout_ms)))


@control("flushall", -1)
def flushall(connection: ConnectionContext, args: Args) -> None:
    """Delete all keys, in several records. Keys that are written meanwhile may stay. A crash may leave some keys."""
    if len(args) > 2 or (len(args) == 2 and args[1].lower() not in (b"sync", b"async")):
        raise BadRequest(SYNTAX)
    refuse_in_multi(connection, "FLUSHALL writes several records, so it cannot be part of a transaction")
    if not connection.wait_for_own_writes(args):
        connection.wait_for(_flush(connection))


@control("flushdb", -1)
def flushdb(connection: ConnectionContext, args: Args) -> None:
    flushall(connection, args)


async def _flush(connection: ConnectionContext) -> None:
    start: bytes | None = None
    while True:
        transaction = connection.server.backend.begin()
        start = WritableKeyspace(transaction, connection.server.backend.now_ms()).remove_some(start)
        if not transaction.changes:
            connection.reply(OK)
            return
        await _submit(connection, transaction)


async def _submit(connection: ConnectionContext, transaction: Transaction) -> None:
    """Submit, and wait for the outcome. Raises `ReplicatorError` if the write fails."""
    acked: asyncio.Future[Offset] = asyncio.get_running_loop().create_future()

    def done(error: ReplicatorError | None, offset: Offset) -> None:
        if acked.cancelled():
            return
        if error is None:
            acked.set_result(offset)
        else:
            acked.set_exception(error)

    connection.server.backend.submit(transaction, done)
    connection.last_offset = await acked


@connection("time", 1)
def time_(connection: ConnectionContext, args: Args) -> Reply:
    seconds, microseconds = divmod(time.time_ns() // 1000, 1_000_000)
    return [b"%d" % seconds, b"%d" % microseconds]


@connection("config", -2)
def config(connection: ConnectionContext, args: Args) -> Reply:
    word = args[1].lower()
    if word == b"get":
        if len(args) < 3:
            raise wrong_arity(b"config|get")
        patterns = globs([pattern.lower() for pattern in args[2:]])
        settings = connection.server.settings()
        return {name: value for name, value in settings.items() if any(it.match(name) for it in patterns)}
    if word == b"resetstat":
        connection.server.stats.reset()
        return OK
    if word == b"set":
        return _config_set(args)
    raise BadRequest(f"unknown subcommand '{args[1][:128].decode(errors='replace')}'. Try CONFIG HELP.")


def _config_set(args: Args) -> Reply:
    """Only of `notify-keyspace-events`, which many clients set: all events are sent in any case."""
    if len(args) < 4:
        raise wrong_arity(b"config|set")
    if len(args) % 2:
        raise BadRequest(SYNTAX)
    for name, value in zip(args[2::2], args[3::2], strict=True):
        if name.lower() != b"notify-keyspace-events":
            raise BadRequest("CONFIG SET cannot change settings: pass them to `replicator node run`")
        check_wanted(value)
    return OK


@connection("command", -1)
def command_(connection: ConnectionContext, args: Args) -> Reply:
    word = args[1].lower() if len(args) > 1 else b""
    if not word:
        return [_describe(command) for command in COMMANDS.values()]
    if word == b"count":
        return len(COMMANDS)
    if word == b"list":
        return list(COMMANDS)
    if word == b"docs":
        names = [name.lower() for name in args[2:] or COMMANDS]
        return {name: _docs(COMMANDS[name]) for name in names if name in COMMANDS}
    if word == b"info":
        return [_describe_or_null(name.lower()) for name in args[2:] or COMMANDS]
    if word == b"getkeys":
        found = COMMANDS.get(args[2].lower()) if len(args) > 2 else None
        if found is None or not found.accepts(len(args) - 2):
            raise BadRequest("Invalid command specified")
        keys: list[Reply] = [*keys_of(found, args[2:])]
        if not keys:
            raise BadRequest("The command has no key arguments")
        return keys
    raise BadRequest(f"unknown subcommand '{args[1][:128].decode(errors='replace')}'. Try COMMAND HELP.")


def _flags(command: Command) -> Iterator[Reply]:
    yield Simple(command.kind.value.encode())
    if command.before_auth:
        yield Simple(b"no_auth")
    if command.line_at or command.numkeys_at:
        yield Simple(b"movablekeys")


def _describe(command: Command) -> Reply:
    keys: list[Reply] = [command.first_key, command.last_key, command.step]
    return [command.name, command.arity, list(_flags(command)), *keys, [], [], [], []]


def _describe_or_null(name: bytes) -> Reply:
    return _describe(COMMANDS[name]) if name in COMMANDS else Encoded(b"*-1\r\n")


def _docs(command: Command) -> Reply:
    summary = (command.handler.__doc__ or command.name.decode().upper()).partition("\n")[0]
    return {b"summary": summary.encode(), b"group": command.handler.__module__.rpartition(".")[2].encode()}
