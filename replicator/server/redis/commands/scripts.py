"""Lua scripts: EVAL and its relatives, and the commands that scripts call.

As in Redis, an error in a script does not undo what its earlier `redis.call` did: the error is the reply of EVAL, which
is a success for the transaction. A command that fails in a script changes nothing. A script that exceeds a limit raises
`ScriptEnded`, so that neither it nor the transaction that it is part of has any effect.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence

from replicator.errors import BadRequest, Definite, TransactionTooLarge
from replicator.limits import MAX_EXEC_MS, MAX_STEPS_IN_EXEC
from replicator.records.tape import TapeFull
from replicator.server.keyspace import Keyspace, WritableKeyspace
from replicator.server.redis.command import Args, Command, CommandKind
from replicator.server.redis.commands.registry import COMMANDS, connection, integer, read, write, wrong_arity
from replicator.server.redis.context import ConnectionContext
from replicator.server.redis.resp import OK, Error, Reply, Simple, decode, encode, error_reply
from replicator.server.redis.turns import Budget, CpuLimit, ReplyTooLarge
from replicator.server.scripts import ENGINE, Script, ScriptEnded, Scripts, digest, out_of_memory
from replicator.store.view import RowIsExpiring

_KEYS_AT = 2
READS_IN_S = 80_000  # so many rows a replica reads in the time: `limits.SLICE_CHANGES`
OF_NODE = frozenset({b"scan", b"hscan"})  # the cursors are those that a node remembers
_BYTES_FOR_PART = 60  # of the memory of Lua, for each part of a reply besides its text

UNKNOWN = Error("ERR Unknown Redis command called from script")
WRONG_ARITY = Error("ERR Wrong number of args calling Redis command from script")
NOT_ALLOWED = Error("ERR This Redis command is not allowed from script")
READ_ONLY = Error("ERR Write commands are not allowed from read-only scripts.")


Scalar = bytes | int | bool  # as Lua has it: a null is False


class NoScript(BadRequest):
    code = "NOSCRIPT"

    def __init__(self) -> None:
        super().__init__("No matching script. Please use EVAL.")


class NotBusy(BadRequest):
    code = "NOTBUSY"


@write("eval", -3, (0, 0, 0), numkeys_at=_KEYS_AT)
def eval_(keyspace: WritableKeyspace, args: Args) -> Reply:
    """EVAL script numkeys key … arg …: run a script."""
    return _run(keyspace, args, lambda scripts: scripts.cache.load(args[1]), writable=keyspace)


@write("evalsha", -3, (0, 0, 0), numkeys_at=_KEYS_AT)
def evalsha(keyspace: WritableKeyspace, args: Args) -> Reply:
    """EVALSHA sha1 numkeys key … arg …: run a script that this node knows."""

    def find(scripts: Scripts) -> Script:
        script = _find(scripts, args[1])
        info = keyspace.command_info
        info.script_texts = {**info.script_texts, script.sha: script.text}
        return script

    return _run(keyspace, args, find, writable=keyspace)


@read("eval_ro", -3, (0, 0, 0), numkeys_at=_KEYS_AT)
def eval_ro(keyspace: Keyspace, args: Args) -> Reply:
    """EVAL_RO script numkeys key … arg …: run a script that only reads."""
    return _run(keyspace, args, lambda scripts: scripts.cache.load(args[1]))


@read("evalsha_ro", -3, (0, 0, 0), numkeys_at=_KEYS_AT)
def evalsha_ro(keyspace: Keyspace, args: Args) -> Reply:
    """EVALSHA_RO sha1 numkeys key … arg …: run a script that only reads, and that this node knows."""
    return _run(keyspace, args, lambda scripts: _find(scripts, args[1]))


def with_text(line: Args, texts: Mapping[bytes, bytes]) -> Args:
    """A line that executes a script again where it is unknown. `texts`: of scripts by their digests."""
    place = _innermost(line)
    text = texts.get(line[place + 1].lower()) if line[place].lower() == b"evalsha" else None
    if text is None:  # or a script that was not executed, as its id was known (REPL.ONCE)
        return line
    return [*line[:place], b"EVAL", text, *line[place + 2 :]]


def with_digest(line: Args) -> Args:
    """A line that is the same whether it calls a script by its text or its digest: clients use the one or the other."""
    place = _innermost(line)
    name = line[place].lower()
    if name not in (b"eval", b"evalsha"):
        return line
    sha = line[place + 1].lower() if name == b"evalsha" else digest(line[place + 1])
    return [*line[:place], b"evalsha", sha, *line[place + 2 :]]


def _innermost(line: Args) -> int:
    """Where the command begins that is in others."""
    place = 0
    while line_at := COMMANDS[line[place].lower()].line_at:
        place += line_at
    return place


def _find(scripts: Scripts, sha: bytes) -> Script:
    script = scripts.cache.find(sha)
    if script is None:
        raise NoScript
    return script


def _run(
    keyspace: Keyspace,
    args: Args,
    script_of: Callable[[Scripts], Script],
    writable: WritableKeyspace | None = None,
) -> Reply:
    """Raises `BadRequest`, and `ScriptEnded` and others if nothing may take effect."""
    count = integer(args[_KEYS_AT])
    first = _KEYS_AT + 1
    if count > len(args) - first:
        raise BadRequest("Number of keys can't be greater than number of args")
    if count < 0:
        raise BadRequest("Number of keys can't be negative")
    scripts = keyspace.programs.scripts
    host = ScriptHost(keyspace, writable)  # before the script is compiled, as that takes time, too
    script = script_of(scripts)
    if writable is None and script.writes and script.text.startswith(b"#!"):
        raise BadRequest("Can not execute a script with write flag using *_ro command.")
    host.writes = script.writes
    began_s = time.monotonic()
    reply, is_repeatable = scripts.run(script, args[first : first + count], args[first + count :], host)
    if writable is not None:
        writable.command_info.engines |= {ENGINE}
        writable.command_info.is_repeatable &= is_repeatable and host.is_repeatable
        writable.command_info.reads += int((time.monotonic() - began_s) * READS_IN_S)
    return decode(reply)


class ScriptHost:
    """Executes the commands that one run of a script calls (`scripts.Host`)."""

    def __init__(self, keyspace: Keyspace, writable: WritableKeyspace | None) -> None:
        """`writable`: the same keyspace; None: the script is a read."""
        self.failure: BaseException | None = None  # why the script was ended
        self._keyspace = keyspace
        self._writable = writable
        self.writes = True  # whether the script says that it may write
        self.is_repeatable = True  # whether its reads depend on the keys alone
        self._limit = (keyspace.limit or CpuLimit(MAX_EXEC_MS)) if keyspace.programs.limited else None
        self._budget = Budget(MAX_STEPS_IN_EXEC)
        self._reply: bytes | list[Scalar] = b""
        self._time: Reply = None

    def is_over_time(self) -> bool:
        return self._limit is not None and self._limit.is_exceeded()

    def call(self, free_bytes: float, words: Sequence[bytes]) -> bytes | int | bool | None:
        try:
            reply = self.execute([*words])
            if reply is None:
                return False
            if isinstance(reply, bytes) and len(reply) < free_bytes:
                return reply
            if isinstance(reply, int):
                return int(reply)  # True has another meaning
            if reply is OK:
                self._reply = b"+OK\r\n"
                return True
            self._reply = items = _scalars(reply)
            if isinstance(items, bytes):
                size = len(items) + _BYTES_FOR_PART * items.count(b"\r\n")
            else:
                size = sum([_BYTES_FOR_PART + (len(item) if isinstance(item, bytes) else 0) for item in items])
            if size > free_bytes:
                raise out_of_memory()
        except TapeFull as error:
            self.failure = ScriptEnded(str(error))
            return None
        except BaseException as error:  # noqa: BLE001 (raised once the script has ended)
            self.failure = error
            return None
        return True

    def take(self) -> bytes | int:
        return self._reply if isinstance(self._reply, bytes) else len(self._reply)

    def take_items(self, first: int) -> tuple[Scalar, ...]:
        return tuple(self._reply[first : first + 8])

    def execute(self, args: Args) -> Reply:
        """Errors become replies, but for those that end the script."""
        command = COMMANDS.get(args[0].lower())
        if command is None:
            return UNKNOWN
        if not command.accepts(len(args)):
            return WRONG_ARITY
        if command.name in _OWN:
            return _OWN[command.name](self, args)
        if command.numkeys_at or command.line_at or command.name.startswith(b"repl."):
            return NOT_ALLOWED
        if command.kind is CommandKind.READ:
            if command.name in OF_NODE:
                self.is_repeatable = False
            return self._read(command, args)
        if command.kind is not CommandKind.WRITE:
            return NOT_ALLOWED
        if self._writable is None or not self.writes:
            return READ_ONLY
        return self._write(self._writable, command, args)

    def _read(self, command: Command, args: Args) -> Reply:
        try:
            if not command.long:
                return command.handler(self._keyspace, args)  # type: ignore[no-any-return]
            reply: Reply = self._budget.finish(command.handler(self._keyspace, args))
        except (RowIsExpiring, ReplyTooLarge):
            raise
        except Definite as error:
            return error_reply(error)
        if reply is None:
            raise ScriptEnded(
                f"a script or procedure can read at most {MAX_STEPS_IN_EXEC} keys or fields with commands such as "
                f"{command.name.decode().upper()}: nothing of it has taken effect"
            )
        return reply

    def _write(self, keyspace: WritableKeyspace, command: Command, args: Args) -> Reply:
        keyspace.transaction.set_savepoint()
        try:
            return command.handler(keyspace, args)  # type: ignore[no-any-return]
        except (RowIsExpiring, TransactionTooLarge, ReplyTooLarge, TapeFull):
            raise
        except Definite as error:
            keyspace.transaction.roll_back()
            return error_reply(error)

    def time(self, args: Args) -> Reply:
        """The same during the whole run, as in Redis."""
        if self._time is None:
            now_us = _now_us() if self._writable is None else self._writable.tape.call("time", _now_us)
            seconds, microseconds = divmod(now_us, 1_000_000)
            self._time = [b"%d" % seconds, b"%d" % microseconds]
        return self._time

    def echo(self, args: Args) -> Reply:
        return args[1]

    def ping(self, args: Args) -> Reply:
        if len(args) > 2:
            return WRONG_ARITY
        return args[1] if len(args) == 2 else Simple(b"PONG")

    def select(self, args: Args) -> Reply:
        return OK if args[1] == b"0" else Error("ERR DB index is out of range")


def _scalars(reply: Reply) -> bytes | list[Scalar]:
    """An array without arrays as its items; other replies in RESP2."""
    items: list[Reply]
    match reply:
        case list():
            items = reply
        case dict():
            items = [it for pair in reply.items() for it in pair]
        case _:
            return encode(reply, 2)
    scalars: list[Scalar] = []
    for item in items:
        if item is None:
            scalars.append(False)
        elif isinstance(item, bytes | int):
            scalars.append(item)
        else:
            return encode(reply, 2)
    return scalars


_OWN: dict[bytes, Callable[[ScriptHost, Args], Reply]] = {
    b"time": ScriptHost.time,
    b"echo": ScriptHost.echo,
    b"ping": ScriptHost.ping,
    b"select": ScriptHost.select,
}
"""Those that are commands on the connection otherwise."""


def _now_us() -> int:
    return time.time_ns() // 1000


@connection("script", -2)
def script(connection: ConnectionContext, args: Args) -> Reply:
    """SCRIPT LOAD script | EXISTS sha1 … | FLUSH | KILL: the scripts that this node knows."""
    scripts, word = connection.server.programs.scripts, args[1].lower()
    if word == b"load":
        if len(args) != 3:
            raise wrong_arity(b"script|load")
        return scripts.cache.load(args[2]).sha
    if word == b"exists":
        if len(args) < 3:
            raise wrong_arity(b"script|exists")
        return [int(scripts.cache.find(sha) is not None) for sha in args[2:]]
    if word == b"flush":
        if len(args) > 3 or (len(args) == 3 and args[2].lower() not in (b"sync", b"async")):
            raise BadRequest("SCRIPT FLUSH only support SYNC|ASYNC option")
        scripts.cache.clear()
        return OK
    if word == b"kill":
        if len(args) != 2:
            raise wrong_arity(b"script|kill")
        raise NotBusy("No scripts in execution right now.")
    raise BadRequest(f"unknown subcommand '{args[1][:128].decode(errors='replace')}'. Try SCRIPT HELP.")
