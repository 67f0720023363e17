"""Commands on the connection."""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import Callable

from replicator.errors import BadRequest
from replicator.server.redis.command import Args
from replicator.server.redis.commands.registry import SYNTAX, connection, control, integer, wrong_arity
from replicator.server.redis.context import ConnectionContext
from replicator.server.redis.info import REDIS_VERSION
from replicator.server.redis.resp import OK, Error, Reply, Simple


@connection("ping", -1)
def ping(connection: ConnectionContext, args: Args) -> Reply:
    if len(args) > 2:
        raise wrong_arity(b"ping")
    if connection.subscriptions.restrict(connection.protocol):
        return [b"pong", args[1] if len(args) == 2 else b""]
    return args[1] if len(args) == 2 else Simple(b"PONG")


@connection("echo", 2)
def echo(connection: ConnectionContext, args: Args) -> Reply:
    return args[1]


@connection("select", 2)
def select(connection: ConnectionContext, args: Args) -> Reply:
    if integer(args[1]) != 0:
        raise BadRequest("DB index is out of range")
    return OK


@control("quit", -1, before_auth=True)
def quit_(connection: ConnectionContext, args: Args) -> None:
    connection.reply(OK)
    connection.close_after_replies()


@control("reset", 1, before_auth=True)
def reset(connection: ConnectionContext, args: Args) -> None:
    connection.multi.discard()
    connection.interactive = None
    connection.subscriptions.clear()
    connection.protocol = 2
    connection.level = None
    connection.name = b""
    connection.authenticated = not connection.server.password
    connection.reply(Simple(b"RESET"))


@connection("auth", -2, before_auth=True)
def auth(connection: ConnectionContext, args: Args) -> Reply:
    if len(args) > 3:
        raise BadRequest(SYNTAX)
    if not connection.server.password and len(args) == 2:
        raise BadRequest(
            "AUTH <password> called without any password configured for the default user. "
            "Are you sure your configuration is correct?"
        )
    return _authenticate(connection, args[-2] if len(args) == 3 else b"default", args[-1]) or OK


def _authenticate(connection: ConnectionContext, user: bytes, password: bytes) -> Error | None:
    expected = connection.server.password
    if user == b"default" and (not expected or hmac.compare_digest(password, expected.encode())):
        connection.authenticated = True
        return None
    return Error("WRONGPASS invalid username-password pair or user is disabled.")


@connection("hello", -1, before_auth=True)
def hello(connection: ConnectionContext, args: Args) -> Reply:
    protocol, name = connection.protocol, connection.name
    rest = args[1:]
    if rest:
        if rest[0] not in (b"2", b"3"):
            if rest[0].isdigit():
                return Error("NOPROTO unsupported protocol version")
            raise BadRequest("Protocol version is not an integer or out of range")
        protocol, rest = int(rest[0]), rest[1:]
    while rest:
        word = rest[0].lower()
        if word == b"auth" and len(rest) >= 3:
            failure = _authenticate(connection, rest[1], rest[2])
            if failure is not None:
                return failure
            rest = rest[3:]
        elif word == b"setname" and len(rest) >= 2:
            name, rest = _name(rest[1]), rest[2:]
        else:
            raise BadRequest(f"Syntax error in HELLO option '{rest[0].decode(errors='replace')}'")
    if not connection.authenticated:
        return Error(
            "NOAUTH HELLO must be called with the client already authenticated, otherwise the HELLO <proto> AUTH "
            "<user> <pass> option can be used to authenticate the client and select the RESP protocol version at the "
            "same time"
        )
    connection.protocol, connection.name = protocol, name
    return {
        b"server": b"redis",
        b"version": REDIS_VERSION,
        b"proto": protocol,
        b"id": connection.id,
        b"mode": b"standalone",
        b"role": b"master" if connection.server.backend.leads else b"replica",
        b"modules": [],
    }


def _name(name: bytes) -> bytes:
    if any(byte < 0x21 or byte > 0x7E for byte in name):
        raise BadRequest("Client names cannot contain spaces, newlines or special characters.")
    return name


@connection("client", -2)
def client(connection: ConnectionContext, args: Args) -> Reply:
    handler = _CLIENT.get(args[1].lower())
    if handler is None:
        raise BadRequest(f"unknown subcommand '{args[1][:128].decode(errors='replace')}'. Try CLIENT HELP.")
    wanted, run = handler
    if (len(args) != wanted) if wanted > 0 else (len(args) < -wanted):
        raise wrong_arity(b"client|" + args[1].lower())
    return run(connection, args)


def _set_name(connection: ConnectionContext, args: Args) -> Reply:
    connection.name = _name(args[2])
    return OK


def _set_info(connection: ConnectionContext, args: Args) -> Reply:
    attribute = args[2].lower()
    if attribute not in (b"lib-name", b"lib-ver"):
        raise BadRequest(f"Unrecognized option '{args[2].decode(errors='replace')}'")
    connection.library[attribute] = _name(args[3])
    return OK


def describe(connection: ConnectionContext) -> bytes:
    """One line of CLIENT LIST."""
    age_s = int(asyncio.get_running_loop().time() - connection.connected_s)
    library = connection.library
    return (
        b"id=%d addr=%b name=%b age=%d db=0 sub=%d psub=%d multi=%d cmd=%b user=default resp=%d "
        b"lib-name=%b lib-ver=%b\n"
        % (
            connection.id,
            connection.address.encode(),
            connection.name,
            age_s,
            len(connection.subscriptions.channels),
            len(connection.subscriptions.patterns),
            0 if connection.multi.open else -1,
            connection.last_command or b"NULL",
            connection.protocol,
            library.get(b"lib-name", b""),
            library.get(b"lib-ver", b""),
        )
    )


def _list(connection: ConnectionContext, args: Args) -> Reply:
    return b"".join(describe(other) for other in connection.server.connections.values())


def _kill(connection: ConnectionContext, args: Args) -> Reply:
    """CLIENT KILL addr, or CLIENT KILL ID id | ADDR addr."""
    connections = connection.server.connections
    if len(args) == 3:
        victims = [it for it in connections.values() if it.address.encode() == args[2]]
        if not victims:
            raise BadRequest("No such client")
    elif len(args) == 4 and args[2].lower() == b"id":
        victim = connections.get(integer(args[3], "client-id should be greater than 0"))
        victims = [victim] if victim else []
    elif len(args) == 4 and args[2].lower() == b"addr":
        victims = [it for it in connections.values() if it.address.encode() == args[3]]
    else:
        raise BadRequest(SYNTAX)
    for victim in victims:
        victim.close_after_replies()
    return OK if len(args) == 3 else len(victims)


def _switch(connection: ConnectionContext, args: Args) -> Reply:
    """NO-EVICT and NO-TOUCH are accepted, but have no effect: no key is ever evicted."""
    if args[2].lower() not in (b"on", b"off"):
        raise BadRequest(SYNTAX)
    return OK


_CLIENT: dict[bytes, tuple[int, Callable[[ConnectionContext, Args], Reply]]] = {
    b"id": (2, lambda connection, args: connection.id),
    b"getname": (2, lambda connection, args: connection.name or None),
    b"setname": (3, _set_name),
    b"setinfo": (4, _set_info),
    b"info": (2, lambda connection, args: describe(connection)),
    b"list": (-2, _list),
    b"kill": (-3, _kill),
    b"no-evict": (3, _switch),
    b"no-touch": (3, _switch),
}
