"""Compiles Lua to bytecode, which a state loads several times faster than the text.

Only bytecode that was compiled here is ever loaded, as Lua 5.1 does not verify it.
"""

from __future__ import annotations

from functools import cache

from lupa.lua51 import LuaRuntime

_HEADER = b"\x1bLua\x51\x00\x01\x04\x08\x04\x08\x00"  # Lua 5.1, little-endian, 64 bits, numbers are doubles
_CALL, _TAIL_CALL, _OPCODE = 28, 29, 0x3F
_PATCHED = bytes(b & ~_OPCODE | _CALL if b & _OPCODE == _TAIL_CALL else b for b in range(256))
_NIL, _BOOLEAN, _NUMBER = 0, 1, 3
_COMPILE = b"""
local text, name = ...
local chunk, failure = loadstring(text, name)
return chunk and true or false, chunk and string.dump(chunk) or failure
"""


class CompileError(Exception):
    pass


def compile_lua(text: bytes, name: bytes) -> bytes:
    """Raises `CompileError`. `name` begins with @ or =, as Lua wants it."""
    if text.startswith(b"\x1b"):
        raise CompileError("binary chunks are not allowed")
    compiles, result = LuaRuntime(encoding=None, register_eval=False, register_builtins=False).execute(
        _COMPILE, text, name
    )
    if not compiles:
        raise CompileError(result.decode(errors="replace"))
    return without_tail_calls(result)


@cache
def can_patch() -> bool:
    """Whether this build of Lua has the format of bytecode that `without_tail_calls` knows."""
    lua = LuaRuntime(encoding=None, register_eval=False, register_builtins=False)
    dumped: bytes = lua.execute(b"return string.dump(function() end)")
    return dumped.startswith(_HEADER)


def without_tail_calls(code: bytes) -> bytes:
    """The same with ordinary calls, after which Lua still knows the line: the errors of Redis name it.

    The functions that scripts call are C functions in Redis, which Lua never calls as tail calls. Here they are Lua
    functions. A tail call is followed by a return of all its results, so that only the opcode differs.
    """
    if not can_patch():
        return code
    patched = bytearray(code)
    _patch_function(patched, len(_HEADER))
    return bytes(patched)


def _patch_function(code: bytearray, at: int) -> int:
    """Returns the index after the function."""

    def count() -> int:
        nonlocal at
        at += 4
        return int.from_bytes(code[at - 4 : at], "little")

    def skip_string() -> None:
        nonlocal at
        at += 8 + int.from_bytes(code[at : at + 8], "little")

    skip_string()  # the name of the chunk
    at += 12  # its lines, and the numbers of its upvalues, parameters and registers
    instructions = count()
    first_bytes = slice(at, at + 4 * instructions, 4)  # of each instruction, with its opcode
    code[first_bytes] = code[first_bytes].translate(_PATCHED)
    at += 4 * instructions
    for _ in range(count()):
        kind = code[at]
        at += 1
        if kind == _BOOLEAN:
            at += 1
        elif kind == _NUMBER:
            at += 8
        elif kind != _NIL:
            skip_string()
    for _ in range(count()):
        at = _patch_function(code, at)
    lines = count()
    at += 4 * lines
    for _ in range(count()):  # local variables
        skip_string()
        at += 8
    for _ in range(count()):  # names of upvalues
        skip_string()
    return at
