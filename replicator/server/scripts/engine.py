"""Runs Lua scripts.

A Lua state is used for many runs, as to make one takes longer than most scripts do; one in which a script was ended is
discarded. A script cannot change what the next one finds: all that lasts is read-only. It depends on nothing but its
arguments and the replies that it gets. So another node with the same processor that gets the same replies ends with the
same result, unless the run is marked as not repeatable:

* `math.random` is the generator of Redis, with the same seed in each run.
* `pairs` has the same order everywhere for keys that are strings, numbers or booleans: the hashes of Lua 5.1 have no
  seed, and the order depends on what was done to the table only. Keys that are tables or functions are ordered by
  their addresses, which differ: a run that iterates over such keys is marked. Keys of this kind that were removed
  before are not noticed.
* A garbage collection changes the order in which removed keys return, and weak tables. There is none during a run
  unless it needs much memory; then it is marked.
* `tostring` of a table or a function shows a number instead of the address, and `collectgarbage` and `gcinfo` show 0.
* `math.sin`, `math.exp`, `^` and others are those of the C library, whose last digit can differ between its versions.
  Runs that call them, and scripts with the operator, are marked.
* So is a run in which the stack overflows: the depth depends on when the hook below runs.
* `string.upper` and others depend on the locale; `has_plain_locale`.

A script cannot exceed its limits: a hook runs after each few instructions, also in coroutines, and ends the script if
its time is over. What Lua does in C without calling hooks is bounded by the memory of the state, or replaced
(`sandbox.lua`, `patterns.lua`).
"""

from __future__ import annotations

import hashlib
import logging
import platform
from collections.abc import Callable, Sequence
from functools import cache
from importlib.resources import files
from typing import Any, Protocol

from lupa.lua51 import LuaError, LuaMemoryError, LuaRuntime

from replicator.errors import BadRequest, TransactionTooLarge
from replicator.limits import MAX_SCRIPT_ARGUMENT_BYTES, MAX_SCRIPT_MEMORY_BYTES
from replicator.server.scripts.bytecode import compile_lua
from replicator.server.scripts.cache import Script, ScriptCache

logger = logging.getLogger(__name__)

ENGINE = f"lua:5.1,cpu:{platform.machine()}"
"""What has to be the same where a script runs again: processors convert large numbers differently."""

_ENDED = "the script was ended"  # an error in sandbox.lua
_PUSHED_AT_ONCE = 200
_LARGE_KB = 768  # from which on a run is interrupted more often
_UNLIMITED = 16  # times the memory, which is more than a run takes that collects nothing
_MAX_GROWN_BYTES = 512 << 10  # of a state that is used again; its scripts and libraries are part of it
_VERSION, _VERSION_NUMBER = b"7.0.15", 0x07000F  # as in INFO
_WORD = 0xFFFFFFFF


class ScriptEnded(TransactionTooLarge):
    """A script has exceeded a limit. Nothing that it did takes effect, nor does the transaction that it is part of."""


class Host(Protocol):
    """What executes the commands of one run. No method may raise."""

    failure: BaseException | None  # of a command; it ends the script

    def call(self, free_bytes: float, words: Sequence[bytes]) -> bytes | int | bool | None:
        """The reply of a command. True: it is `take`n. None: it has failed.

        A null is False. `free_bytes` is the memory that the reply may take in Lua.
        """
        ...

    def take(self) -> bytes | int:
        """The reply of the last command, in RESP2; if it is an array of scalars, their number."""
        ...

    def take_items(self, first: int) -> tuple[bytes | int | bool | None, ...]:
        """At most 8 of these, from the index `first` on."""
        ...

    def is_over_time(self) -> bool: ...


class _State:
    """A Lua state, which is used for many runs. It must not be referred to by `_Calls`, which it refers to."""

    def __init__(self, factor: int) -> None:
        """`factor`: of the memory that a run may take."""
        self.calls = _Calls()
        self._memory_bytes = MAX_SCRIPT_MEMORY_BYTES * factor
        self._lua = LuaRuntime(
            encoding=None,
            attribute_handlers=(_refuse, _refuse),
            register_eval=False,
            register_builtins=False,
            unpack_returned_tuples=True,
            max_memory=0,  # without a limit until the first run
        )
        self._define, self._push, self._run = self._lua.execute(
            _library(b"sandbox"),
            self.calls.call,
            self.calls.call_many,
            self.calls.take,
            self.calls.take_items,
            self.calls.is_over_time,
            _log,
            _sha1hex,
            _bits,
            _library,
            MAX_SCRIPT_MEMORY_BYTES,
            self._memory_bytes,
            _LARGE_KB * factor,
            _VERSION,
            _VERSION_NUMBER,
        )
        self._first_bytes: int = self._lua.get_memory_used()
        self._defined: set[bytes] = set()

    def run(self, script: Script, key_count: int, arguments: list[bytes]) -> tuple[bytes | int, bool]:
        """The reply in RESP3, a number if the script was ended; and if the run is repeatable. Raises `LuaError`."""
        if script.sha not in self._defined:
            self._define(script.sha, script.code)
            self._defined.add(script.sha)
        # More than the arguments need, while which are pushed Lua cannot raise an error either.
        self._lua.set_max_memory(self._lua.get_memory_used() + self._memory_bytes)
        for first in range(0, len(arguments) - _PUSHED_AT_ONCE, _PUSHED_AT_ONCE):
            self._push(*arguments[first : first + _PUSHED_AT_ONCE])
            if self.calls.is_over_time():
                return 0, False
        pushed = max(0, (len(arguments) - 1) // _PUSHED_AT_ONCE) * _PUSHED_AT_ONCE
        try:
            return self._run(script.sha, key_count, *arguments[pushed:])  # type: ignore[no-any-return]
        finally:
            self._lua.set_max_memory(0)  # as lupa allocates memory also where it cannot raise an error

    def can_be_used_again(self) -> bool:
        """Whether it has left little garbage, which would take memory from the next run."""
        grown: int = self._lua.get_memory_used() - self._first_bytes
        return grown < _MAX_GROWN_BYTES


class _Calls:
    """What Lua calls."""

    def __init__(self) -> None:
        self.host: Host
        self.is_ended = False  # as the time is over

    def call(self, free_bytes: float, *words: bytes) -> bytes | int | bool | None:
        return self.host.call(free_bytes, words)

    def call_many(self, free_bytes: float, sizes: bytes, joined: bytes) -> bytes | int | bool | None:
        """The same for many words: lupa takes a time for its arguments that grows with the square of their number."""
        words, at = [], 0
        for size in map(int, sizes.split(b",")):
            words.append(joined[at : at + size])
            at += size
        return self.host.call(free_bytes, words)

    def take(self) -> bytes | int:
        return self.host.take()

    def take_items(self, first: int) -> tuple[bytes | int | bool | None, ...]:
        return self.host.take_items(first)

    def is_over_time(self) -> bool:
        self.is_ended = self.is_ended or self.host.is_over_time()
        return self.is_ended


class Scripts:
    def __init__(self, *, limited: bool = True) -> None:
        """Unless they are `limited`, scripts may take far more memory: for runs that have kept the limit elsewhere."""
        self.cache = ScriptCache(limited=limited)
        self._factor = 1 if limited else _UNLIMITED
        self._state: _State | None = None

    def run(self, script: Script, keys: list[bytes], values: list[bytes], host: Host) -> tuple[bytes, bool]:
        """The reply in RESP3, and whether the run has the same effect again.

        Raises `ScriptEnded`, `BadRequest`, and what has failed in `host`.
        """
        if sum(map(len, keys)) + sum(map(len, values)) > MAX_SCRIPT_ARGUMENT_BYTES:
            raise BadRequest(
                f"the keys and arguments of a script can take at most {MAX_SCRIPT_ARGUMENT_BYTES >> 10} KiB: split it"
            )
        state, self._state = self._state or _State(self._factor), None
        calls = state.calls
        calls.host, calls.is_ended = host, False
        try:
            reply, is_repeatable = state.run(script, len(keys), keys + values)
            failure = out_of_memory() if isinstance(reply, int) else None
        except LuaMemoryError:
            reply, is_repeatable, failure = b"", False, out_of_memory()
        except LuaError as error:
            was_ended = _ENDED in str(error)  # the hook has raised this once more, after the script
            reply, is_repeatable = b"", False
            failure = out_of_memory() if was_ended else ScriptEnded(f"the script failed: {error}")
        if host.failure is not None:
            raise host.failure
        if calls.is_ended:
            raise _over_time()
        if failure is not None:
            raise failure
        if state.can_be_used_again():
            del calls.host
            self._state = state
        return reply, is_repeatable and script.is_exact and has_plain_locale()  # type: ignore[return-value]


def _over_time() -> ScriptEnded:
    return ScriptEnded(
        "the script takes more CPU time than one command may, in which no other client is served: nothing of it has "
        "taken effect; split it"
    )


def out_of_memory() -> ScriptEnded:
    return ScriptEnded(
        f"the script needs more than {MAX_SCRIPT_MEMORY_BYTES >> 20} MiB of memory: nothing of it has taken effect"
    )


_LOOKS_AT_LETTERS = b"""
for i = 128, 255 do
  local c = string.char(i)
  if c:upper() ~= c or c:lower() ~= c or c:find("[%a%c%d%p%s%w%x]") then return false end
end
return true
"""


@cache
def has_plain_locale() -> bool:
    """Whether the locale of the process has no letters beyond ASCII: as those named C and all of UTF-8."""
    lua = LuaRuntime(encoding=None, register_eval=False, register_builtins=False)
    return bool(lua.execute(_LOOKS_AT_LETTERS))


def _refuse(*_: object) -> None:
    raise AttributeError("scripts cannot use the attributes of Python")


def _log(text: bytes) -> None:
    logger.debug("a script says: %s", text[:1000].decode(errors="replace"))


def _sha1hex(text: bytes) -> bytes:
    return hashlib.sha1(text, usedforsecurity=False).hexdigest().encode()


@cache
def _library(name: bytes) -> bytes:
    text = files(__package__).joinpath(f"{name.decode()}.lua").read_bytes()
    return compile_lua(text, b"=" + name)


def _rotated(a: int, by: int) -> int:
    return (a << by | a >> (32 - by)) & _WORD


_OPERATIONS: dict[bytes, Callable[[int, int], int]] = {
    b"tobit": lambda a, b: a,
    b"bnot": lambda a, b: ~a,
    b"bswap": lambda a, b: int.from_bytes(a.to_bytes(4, "little"), "big"),
    b"band": lambda a, b: a & b,
    b"bor": lambda a, b: a | b,
    b"bxor": lambda a, b: a ^ b,
    b"lshift": lambda a, b: a << (b & 31),
    b"rshift": lambda a, b: a >> (b & 31),
    b"arshift": lambda a, b: _signed(a) >> (b & 31),
    b"rol": lambda a, b: _rotated(a, b & 31),
    b"ror": lambda a, b: _rotated(a, -b & 31),
}


def _signed(a: int) -> int:
    a &= _WORD
    return a - (1 << 32) if a >> 31 else a


def _bits(name: bytes, first: Any, second: Any) -> int:
    """An operation of the library `bit`. The numbers are 0 or more, and below 2 ** 32; they may have a fraction."""
    return _signed(_OPERATIONS[name](round(first) & _WORD, round(second) & _WORD))
