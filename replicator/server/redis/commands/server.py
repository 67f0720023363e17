"""Commands about the server and the cluster."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator

from replicator.address import UNKNOWN
from replicator.errors import BadRequest, ReplicatorError
from replicator.limits import FLUSH_BYTES, FLUSH_ENTRIES
from replicator.position import BEFORE_LOG, Offset
from replicator.server.keyspace import TABLE as KV
from replicator.server.redis.commands.registry import (
    SYNTAX,
    TABLE,
    Args,
    Command,
    control,
    integer,
    session,
    wrong_arity,
)
from replicator.server.redis.commands.scan import glob
from replicator.server.redis.connection import Session
from replicator.server.redis.info import sections
from replicator.server.redis.resp import OK, Encoded, Reply, Simple, Verbatim
from replicator.server.redis.topology import NOBODY
from replicator.store.keys import decode_key, table_range
from replicator.store.view import Transaction

NOT_POSITIVE = "value is out of range, must be positive"


@session("info", -1)
def info(session: Session, args: Args) -> Reply:
    wanted = {word.lower() for word in args[1:]} - {b"all", b"everything", b"default"}
    parts = [
        b"# %b\r\n%b" % (name.capitalize(), b"".join(b"%b:%b\r\n" % pair for pair in pairs))
        for name, pairs in sections(session.server)
        if not wanted or name in wanted
    ]
    return Verbatim(b"\r\n".join(parts))


@session("role", 1)
def role(session: Session, args: Args) -> Reply:
    backend = session.server.backend
    status = backend.status()
    if status.role == "leader":
        replicas: list[Reply] = []
        for node, heard in backend.last_acks.items():
            member = backend.membership.get(node)
            place = member.resp if member else UNKNOWN
            replicas.append([place.host.encode(), b"%d" % place.port, b"%d" % max(0, heard.ack.offset)])
        return [b"master", max(0, status.applied_offset), replicas]
    leader = backend.membership.get(status.leader) if status.leader else None
    place = leader.resp if leader else NOBODY
    link = b"connected" if status.state == "serving" else b"sync"
    return [b"slave", place.host.encode(), place.port, link, max(0, status.applied_offset)]


@control("wait", 3)
def wait(session: Session, args: Args) -> Reply:
    _refuse_within_multi(session, "WAIT cannot be part of a transaction, whose end it would wait for")
    replicas, timeout_ms = integer(args[1]), _timeout_ms(args[2])
    _refuse_at_replicas(session, "WAIT")
    if not session.after_own_writes(args):
        session.wait(_wait(session, replicas, timeout_ms, lambda acked: acked))
    return None


@control("waitaof", 4)
def waitaof(session: Session, args: Args) -> Reply:
    """WAITAOF numlocal numreplicas timeout: the log is the append-only file, and what has been answered is in it."""
    _refuse_within_multi(session, "WAITAOF cannot be part of a transaction, whose end it would wait for")
    if integer(args[1]) not in (0, 1):
        raise BadRequest("value is out of range, value must between 0 and 1")
    replicas, timeout_ms = integer(args[2], NOT_POSITIVE), _timeout_ms(args[3])
    if replicas < 0:
        raise BadRequest(NOT_POSITIVE)
    _refuse_at_replicas(session, "WAITAOF")
    if not session.after_own_writes(args):
        session.wait(_wait(session, replicas, timeout_ms, lambda acked: [1, acked]))
    return None


def _timeout_ms(text: bytes) -> int:
    """Raises `BadRequest`."""
    timeout_ms = integer(text, "timeout is not an integer or out of range")
    if timeout_ms < 0:
        raise BadRequest("timeout is negative")
    return timeout_ms


def _refuse_at_replicas(session: Session, name: str) -> None:
    if session.server.backend.status().role != "leader":
        raise BadRequest(f"{name} cannot be used with replica instances.")


def _refuse_within_multi(session: Session, why: str) -> None:
    if session.multi.open:
        session.multi.spoil()
        raise BadRequest(why)


async def _wait(session: Session, replicas: int, timeout_ms: int, reply: Callable[[int], Reply]) -> None:
    offset = max(session.last_offset, BEFORE_LOG)
    session.answer(reply(await session.server.backend.wait_acked(offset, replicas, timeout_ms)))


@control("flushall", -1)
def flushall(session: Session, args: Args) -> Reply:
    """Every key, in several records: what others write meanwhile may stay, and a crash may leave a rest."""
    if len(args) > 2 or (len(args) == 2 and args[1].lower() not in (b"sync", b"async")):
        raise BadRequest(SYNTAX)
    _refuse_within_multi(session, "FLUSHALL takes several records, so it cannot be part of a transaction")
    if not session.after_own_writes(args):
        session.wait(_flush(session))
    return None


@control("flushdb", -1)
def flushdb(session: Session, args: Args) -> Reply:
    return flushall(session, args)


async def _flush(session: Session) -> None:
    start, stop = table_range(KV)
    while True:
        transaction = session.server.backend.begin()
        start = _delete_some(transaction, start, stop)
        if not transaction.changes:
            session.answer(OK)
            return
        await _submitted(session, transaction)


def _delete_some(transaction: Transaction, start: bytes, stop: bytes) -> bytes:
    """Delete entries from `start` on, as many as fit into one record; where to go on."""
    size = 0
    found: list[bytes] = []
    for key, value in transaction.scan(start, stop):
        size += len(key) + len(value)
        if found and (size > FLUSH_BYTES or len(found) == FLUSH_ENTRIES):
            break
        found.append(key)
    for key in found:
        table, row, field = decode_key(key)
        transaction.put(table, row, field, None)
    return found[-1] if found else start


async def _submitted(session: Session, transaction: Transaction) -> None:
    """Raises what became of it, if it is not OK."""
    ended: asyncio.Future[Offset] = asyncio.get_running_loop().create_future()

    def done(error: ReplicatorError | None, offset: Offset) -> None:
        if ended.cancelled():
            return
        if error is None:
            ended.set_result(offset)
        else:
            ended.set_exception(error)

    session.server.backend.submit(transaction, done)
    session.last_offset = await ended


@session("time", 1)
def time_(session: Session, args: Args) -> Reply:
    seconds, microseconds = divmod(time.time_ns() // 1000, 1_000_000)
    return [b"%d" % seconds, b"%d" % microseconds]


@session("config", -2)
def config(session: Session, args: Args) -> Reply:
    word = args[1].lower()
    if word == b"get":
        if len(args) < 3:
            raise wrong_arity(b"config|get")
        patterns = [glob(pattern.lower()) for pattern in args[2:]]
        settings = session.server.settings()
        return {name: value for name, value in settings.items() if any(it.match(name) for it in patterns)}
    if word == b"resetstat":
        session.server.stats.reset()
        return OK
    if word == b"set":
        raise BadRequest("settings are given to `replicator node run`, not changed by CONFIG SET")
    raise BadRequest(f"unknown subcommand '{args[1][:128].decode(errors='replace')}'. Try CONFIG HELP.")


@session("command", -1)
def command_(session: Session, args: Args) -> Reply:
    word = args[1].lower() if len(args) > 1 else b""
    if not word:
        return [_describe(command) for command in TABLE.values()]
    if word == b"count":
        return len(TABLE)
    if word == b"list":
        return list(TABLE)
    if word == b"docs":
        return {name: _docs(TABLE[name]) for name in map(bytes.lower, args[2:] or list(TABLE)) if name in TABLE}
    if word == b"info":
        return [_describe_or_null(name.lower()) for name in args[2:] or list(TABLE)]
    if word == b"getkeys":
        found = TABLE.get(args[2].lower()) if len(args) > 2 else None
        if found is None or not found.accepts(len(args) - 2):
            raise BadRequest("Invalid command specified")
        keys: list[Reply] = [*found.keys(args[2:])]
        if not keys:
            raise BadRequest("The command has no key arguments")
        return keys
    raise BadRequest(f"unknown subcommand '{args[1][:128].decode(errors='replace')}'. Try COMMAND HELP.")


def _flags(command: Command) -> Iterator[Reply]:
    yield Simple(command.kind.value.encode())
    if command.before_auth:
        yield Simple(b"no_auth")
    if command.line_at:
        yield Simple(b"movablekeys")


def _describe(command: Command) -> Reply:
    keys: list[Reply] = [command.first_key, command.last_key, command.step]
    return [command.name, command.arity, list(_flags(command)), *keys, [], [], [], []]


def _describe_or_null(name: bytes) -> Reply:
    return _describe(TABLE[name]) if name in TABLE else Encoded(b"*-1\r\n")


def _docs(command: Command) -> Reply:
    summary = (command.handler.__doc__ or command.name.decode().upper()).partition("\n")[0]
    return {b"summary": summary.encode(), b"group": command.handler.__module__.rpartition(".")[2].encode()}
