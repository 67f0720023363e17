"""The scripts that a node knows, by the SHA-1 digest of their text."""

from __future__ import annotations

import hashlib
import re
from collections import OrderedDict
from typing import NamedTuple

from replicator.errors import BadRequest
from replicator.limits import MAX_SCRIPT_BYTES, MAX_SCRIPTS, MAX_SCRIPTS_BYTES
from replicator.server.scripts.bytecode import CompileError, compile_lua

CHUNK_NAME = b"@user_script"
_JUMPS = re.compile(rb"\b(?:and|or|elseif|break)\b")
_NO_OPERATORS = re.compile(  # comments and strings; one that does not end takes the rest, so that the time is linear
    rb"""--\[(=*)\[.*?(?:\]\1\]|\Z) | --[^\r\n]* | \[(=*)\[.*?(?:\]\2\]|\Z)
    | '(?:\\.|[^'\\])*(?:'|\Z) | "(?:\\.|[^"\\])*(?:"|\Z)""",
    re.DOTALL | re.VERBOSE,
)
_MAX_JUMPS = 2_000  # the compiler takes a time for these that grows with the square of their number
_NAME = re.compile(rb"[A-Za-z_]\w*")
_DECLARED = re.compile(rb"\b(?:local|for)\s+(\w+(?:\s*,\s*\w+)*)")
_MAX_LOOKUPS = 25_000_000  # the compiler may compare each name with each local variable around it: 15 ms
_FLAGS = {b"no-writes", b"allow-oom", b"allow-stale", b"no-cluster", b"allow-cross-slot-keys"}


class Script(NamedTuple):
    sha: bytes  # lower case
    code: bytes
    text: bytes
    writes: bool  # False: it has the flag no-writes
    is_exact: bool  # False: it has the operator ^, whose last digits depend on the C library

    @property
    def size(self) -> int:
        return len(self.code) + len(self.text)


class ScriptCache:
    """Evicts the scripts that were used least recently, as clients load them again after NOSCRIPT."""

    def __init__(self, count: int = MAX_SCRIPTS, size: int = MAX_SCRIPTS_BYTES, *, limited: bool = True) -> None:
        """Unless it is `limited`, scripts may take longer to compile: the leader, perhaps an older one, has done it."""
        self._limited = limited
        self._scripts: OrderedDict[bytes, Script] = OrderedDict()
        self._count, self._max_bytes = count, size
        self._bytes = 0  # of the scripts

    def __len__(self) -> int:
        return len(self._scripts)

    def find(self, sha: bytes) -> Script | None:
        script = self._scripts.get(sha) or self._scripts.get(sha.lower())
        if script is not None:
            self._scripts.move_to_end(script.sha)
        return script

    def load(self, text: bytes) -> Script:
        """Raises `BadRequest`."""
        sha = digest(text)
        script = self.find(sha)
        if script is None:
            script = self._scripts[sha] = _compile(text, sha, self._limited)
            self._bytes += script.size
            while len(self._scripts) > self._count or (self._bytes > self._max_bytes and len(self._scripts) > 1):
                self._bytes -= self._scripts.popitem(last=False)[1].size
        return script

    def clear(self) -> None:
        self._scripts.clear()
        self._bytes = 0


def digest(text: bytes) -> bytes:
    return hashlib.sha1(text, usedforsecurity=False).hexdigest().encode()


def _compile(text: bytes, sha: bytes, limited: bool) -> Script:
    if len(text) > MAX_SCRIPT_BYTES:
        raise BadRequest(f"a script of {len(text)} bytes is too large, at most {MAX_SCRIPT_BYTES}: split it")
    if len(_JUMPS.findall(text)) > _MAX_JUMPS:
        raise BadRequest(f"a script can contain at most {_MAX_JUMPS} of the words and, or, elseif and break: split it")
    body, flags = _shebang(text)
    code = _NO_OPERATORS.sub(b" ", body)
    if limited and _lookups(code) > _MAX_LOOKUPS:
        raise BadRequest("a script with so many names cannot have so many local variables: split it")
    try:
        compiled = compile_lua(body, CHUNK_NAME)
    except CompileError as error:
        raise BadRequest(f"Error compiling script (new function): {error}") from None
    return Script(sha, compiled, text, b"no-writes" not in flags, b"^" not in code)


def _lookups(code: bytes) -> int:
    """At most so many local variables are compared with names. `code`: without comments and strings."""
    declared: int = sum(1 + names.count(b",") for names in _DECLARED.findall(code))
    declared += sum(1 + it.partition(b")")[0].count(b",") for it in code.split(b"function")[1:])  # parameters
    return declared * len(_NAME.findall(code))


def _shebang(text: bytes) -> tuple[bytes, set[bytes]]:
    """The text without its first line, if that is `#!lua flags=…`, and the flags. Raises `BadRequest`."""
    if not text.startswith(b"#!"):
        return text, set()
    line, newline, rest = text.partition(b"\n")
    if not newline:
        raise BadRequest("Invalid script shebang")
    engine, *options = line.split()
    if engine != b"#!lua":
        raise BadRequest(f"Unexpected engine in script shebang: {_shown(engine)}")
    flags: set[bytes] = set()
    for option in options:
        name, _, value = option.partition(b"=")
        if name != b"flags":
            raise BadRequest(f"Unknown lua shebang option: {_shown(option)}")
        for flag in filter(None, value.split(b",")):
            if flag not in _FLAGS:
                raise BadRequest(f"Unexpected flag in script shebang: {_shown(flag)}")
            flags.add(flag)
    return newline + rest, flags


def _shown(text: bytes) -> str:
    return text[:128].decode(errors="replace")
