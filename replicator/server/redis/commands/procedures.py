"""Procedures in Python: REPL.CALL and REPL.PROCEDURES. docs/procedures.md describes them."""

from __future__ import annotations

import logging
import reprlib
import sys
import time
import traceback

from replicator.errors import BadRequest, UpgradeNeeded
from replicator.limits import (
    MAX_PROCEDURE_DEPTH,
    MAX_PROCEDURE_MS,
    MAX_PROCEDURE_NAME_BYTES,
)
from replicator.procedures import CommandError, Procedure
from replicator.procedures.catalog import all_registered, register, registered
from replicator.procedures.running import Ended, running
from replicator.procedures.texts import without_addresses
from replicator.server.keyspace import Keyspace, WritableKeyspace
from replicator.server.redis.command import Args
from replicator.server.redis.commands.procedure_host import (
    ProcedureEnded,
    ProcedureTransaction,
    ReplyOfProcedure,
    to_python,
)
from replicator.server.redis.commands.registry import read, write
from replicator.server.redis.commands.scripts import READS_IN_S
from replicator.server.redis.resp import Reply
from replicator.server.redis.turns import ReplyTooLarge

logger = logging.getLogger(__name__)

CALL = "repl.call"
ENGINE = f"python:{sys.version_info.major}.{sys.version_info.minor}"


_SHOWN_FRAMES, _SHOWN_CAUSES = 20, 5  # of an exception in the log of the node


class ProcedureFailed(BadRequest):
    """The procedure cannot be called, or has raised an exception. The call has no effect."""


@write(CALL, -2, (0, 0, 0))
def call(keyspace: WritableKeyspace, args: Args) -> Reply:
    """REPL.CALL name arg …: run a procedure. The reply is what it returns."""
    mark, began_s = keyspace.transaction.mark(), time.monotonic()
    procedure = _find(keyspace, args[1])
    if keyspace.command_info.replication is None:
        keyspace.command_info.replication = procedure.replicate
    keyspace.command_info.engines |= {ENGINE}
    transaction = ProcedureTransaction(keyspace)
    try:
        with running(procedure.function, limited=keyspace.programs.limited):
            result = procedure.function(transaction, *map(to_python, args[2:]))
        transaction.check()
        return ReplyOfProcedure(transaction.check, limited=keyspace.programs.limited).convert(result)
    except Ended:
        raise transaction.failure or _too_long(procedure) from None
    except RecursionError:
        raise ProcedureEnded(
            f"procedure {procedure.name}: RecursionError: its calls are nested more than about "
            f"{MAX_PROCEDURE_DEPTH} times; use a loop"
        ) from None
    except MemoryError:
        raise ProcedureEnded(f"procedure {procedure.name}: MemoryError: it needs too much memory; split it") from None
    except ReplyTooLarge:
        raise
    except Exception as error:  # noqa: BLE001 (it is the reply)
        if transaction.failure is not None:
            raise transaction.failure from None
        keyspace.transaction.roll_back_to(mark)
        if keyspace.programs.limited:  # else the leader has said so
            logger.warning("procedure %s failed\n%s", procedure.name, _traceback(error))
        raise ProcedureFailed(f"procedure {procedure.name}: {_shown(error)}") from None
    finally:
        transaction.is_over = True
        keyspace.command_info.reads += int((time.monotonic() - began_s) * READS_IN_S)


@read("repl.procedures", 1, (0, 0, 0))
def procedures(keyspace: Keyspace, args: Args) -> Reply:
    """REPL.PROCEDURES: name and hash of each procedure, and `ready`, `new` (not called yet), `missing` or `changed`."""
    known, loaded = all_registered(keyspace.view), keyspace.programs.procedures
    rows: list[Reply] = []
    for name in sorted(known.keys() | loaded.keys()):
        own = loaded[name].hash if name in loaded else None
        hash = known.get(name, own)
        state = "missing" if own is None else "new" if name not in known else "ready" if own == hash else "changed"
        rows.append([name.encode(), (hash or "").encode(), state.encode()])
    return rows


def _find(keyspace: WritableKeyspace, argument: bytes) -> Procedure:
    """Raises `BadRequest`; at a replica that executes it again, `UpgradeNeeded`."""
    name = argument.decode(errors="replace")
    loaded = keyspace.programs.procedures.get(name)
    is_name = len(argument) <= MAX_PROCEDURE_NAME_BYTES  # others do not fit in a key
    required = registered(keyspace.transaction, name) if is_name else None
    if required is None and (loaded is not None or not keyspace.programs.limited):
        own = loaded.hash if loaded is not None else ""
        required = keyspace.tape.call("procedure", lambda: own)
    if loaded is not None and loaded.hash == required:
        if registered(keyspace.transaction, name) is None:
            register(keyspace.transaction, name, loaded.hash)
        return loaded
    if not keyspace.programs.limited:
        raise UpgradeNeeded(
            f"the log has a call of procedure {name} ({(required or '')[:12]}), and "
            + (
                f"this node has another one of that name ({loaded.hash[:12]})"
                if loaded
                else "this node has not loaded it"
            )
            + ": start it with the file of procedures that the leader has (node.procedures)"
        )
    keyspace.command_info.is_repeatable = False  # a replica might have it
    if loaded is None:
        raise ProcedureFailed(
            f"procedure {name[:MAX_PROCEDURE_NAME_BYTES]} is not loaded at this node: add it to the file of procedures "
            "(node.procedures), and start all nodes with that file"
        )
    raise ProcedureFailed(
        f"procedure {name} was changed without a new name: give the new version another name, such as {name}_2, and "
        "keep the old one while replicas may have to execute its calls in the log "
        f"(registered: {(required or '')[:12]}, "
        f"loaded: {loaded.hash[:12]})"
    )


def _too_long(procedure: Procedure) -> ProcedureEnded:
    return ProcedureEnded(
        f"procedure {procedure.name} was ended after {MAX_PROCEDURE_MS} ms of CPU time, in which no other client is "
        "served: nothing of it has taken effect; split it"
    )


def _shown(error: BaseException) -> str:
    """In one line. The text of an exception of a procedure may be anything, and its values of any size."""
    try:
        is_short = all(isinstance(it, str | bytes | int | float) for it in error.args)
        text = str(error) if is_short else ", ".join(map(_SHORT.repr, error.args))
    except Exception:  # noqa: BLE001 (a number with too many digits)
        text = "its text cannot be shown"
    text = " ".join(without_addresses(text[:2000]).split())[:500].encode(errors="replace").decode()
    return text if isinstance(error, CommandError) else f"{type(error).__name__}: {text}"


_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 200
_SHORT.maxlevel = 3


def _traceback(error: BaseException) -> str:
    """What Python prints, but for long chains, deep stacks, and values that take a time to be shown."""
    parts: list[str] = []
    cause = error
    while len(parts) < _SHOWN_CAUSES:
        places = "".join(traceback.format_tb(cause.__traceback__, -_SHOWN_FRAMES))
        parts.append(f"Traceback (most recent call last):\n{places}{_shown(cause)}")
        earlier = cause.__cause__ or (None if cause.__suppress_context__ else cause.__context__)
        if earlier is None:
            break
        cause = earlier
    return "\n\nwhich was raised after:\n".join(parts)
