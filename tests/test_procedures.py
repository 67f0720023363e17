"""Procedures: what a file may contain, their hashes, and how nodes execute them."""

from __future__ import annotations

import ast
import gc
import json
import logging
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest
import redis

from replicator.address import Address
from replicator.client import Client, Rejected
from replicator.errors import ConfigError, UpgradeNeeded
from replicator.limits import MAX_EXEC_MS, MAX_PROCEDURE_DEPTH, MAX_PROCEDURE_ITEMS
from replicator.local.admin_client import NodeUnreachable
from replicator.local.procedures import explained, list_procedures, nodes_without
from replicator.local.status import FAILED, UNREACHABLE, MemberInfo, MemberStatus, NodeInfo, StatusReply
from replicator.procedures import allowed, running
from replicator.procedures.catalog import PROCEDURES_TABLE, registered
from replicator.procedures.checking import check
from replicator.procedures.loading import NONE, Procedures, load, parse
from replicator.records import tape
from replicator.records.tape import Call, Recorder
from replicator.records.types import Command, Replication, Write
from replicator.server.keyspace import WritableKeyspace
from replicator.server.programs import Programs
from replicator.server.redis.commands import look_up, scripts
from replicator.server.redis.commands.procedure_host import ProcedureEnded, ReplyOfProcedure
from replicator.server.redis.commands.procedures import ENGINE, ProcedureFailed
from replicator.server.redis.execution import Replay, to_log
from replicator.server.redis.resp import Reply, error_reply
from replicator.steps import finish
from replicator.store.view import Transaction
from tests.command_log_fixture import bodies, check_equal, client, set_replication
from tests.doc_pages import DOCS
from tests.keyspace_fixture import NOW_MS, MemoryEntries
from tests.redis_fixture import STEADY, ServerThread

__all__ = ["client"]

T = TypeVar("T")

SOURCE = '''
"""Of an account."""
from __future__ import annotations

import math
from hashlib import sha256
from json import dumps, loads
from operator import mod
from datetime import UTC, datetime, timedelta

from replicator.procedures import CommandError, Transaction, procedure

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class TooLittle(Exception):
    """There is not enough."""


def balance(tx, account):
    return int(tx.call("HGET", account, "balance") or 0)


@procedure
def transfer(tx: Transaction, source: str, target: str, amount: str) -> int:
    """Move an amount."""
    if balance(tx, source) < int(amount):
        raise TooLittle(f"{source} has {balance(tx, source)}")
    when = (EPOCH + timedelta(seconds=math.floor(tx.now()))).isoformat()
    tx.call("HINCRBY", source, "balance", -int(amount))
    tx.call("HINCRBY", target, "balance", amount)
    tx.sql("INSERT INTO moves VALUES (?, ?, random())", (tx.uuid(), when))
    return balance(tx, target)


@procedure
def fill(tx, account, amount):
    tx.call("HSET", account, "balance", amount)


@procedure
def values(tx, what):
    if what == "nested":
        return {"a": [1, 2.5, None, b"\\xff", (True, "x")]}
    if what == "object":
        return values
    if what == "address":
        return str(lambda: 1)
    if what == "large":
        return 1 << 64
    return what


@procedure
def catches(tx, key):
    tx.call("SET", key, "text")
    try:
        tx.call("INCR", key)
    except CommandError as error:
        tx.call("SET", "caught", str(error))
    try:
        tx.sql("INSERT INTO nowhere VALUES (1)")
    except CommandError as error:
        return str(error)


@procedure
def long(tx):
    tx.call("SET", "a", 1)
    while True:
        try:
            tx.call("GET", "a")
        except Exception:
            pass


@procedure
def endless(tx):
    tx.call("SET", "a", 1)
    while True:
        pass


@procedure
def deep(tx, catch=""):
    tx.call("SET", "a", 1)
    def down():
        return down() + 1
    try:
        down()
    except Exception:
        pass


@procedure
def many(tx, n):
    return [[()]] * int(n)


@procedure
def raises(tx, what):
    if what == "surrogate":
        raise ValueError("\\ud800")
    if what == "digits":
        raise ValueError(1 << 200000)
    if what == "wide":
        wide = ["x"]
        for i in range(50):
            wide = [wide, wide]
        raise ValueError(wide)
    if what == "address":
        raise KeyError(lambda: 1, what)
    if what == "chain":
        raise ValueError("second") from KeyError("first")
    deep = []
    for i in range(100000):
        deep = [deep]
    raise ValueError(deep)


@procedure
def parameters(tx, n):
    try:
        tx.call("MSET", *["a"] * int(n))
    except CommandError as error:
        tx.sql("SELECT 1", ["a"] * int(n))


def function(x):
    return x


def with_address(n):
    return (
        lambda: str(function)[-10:],
        lambda: str([function])[-10:],
        lambda: repr((function, 1))[-10:],
        lambda: ascii({1: function})[-10:],
        lambda: str(sha256())[-10:],
        lambda: sorted([function], key=str),
        lambda: f"{function}"[-10:],
        lambda: f"{function!r:>.40}"[-10:],
        lambda: f"{1:{function!s:.1}}",
        lambda: ("%s" % function)[-10:],
        lambda: "%.20s" % (function,),
        lambda: mod("%.20s", function),
        lambda: "{}".format(function)[-10:],
        lambda: "{!r:.20}".format(function),
        lambda: str.format("{}", function)[-10:],
        lambda: list(map("{}".format, [function])),
        lambda: "{0.__code__.co_filename}".format(function),
        lambda: "{0[a].b:{1.c}}".format({}, 1),
        lambda: KeyError(function).args[0],
        lambda: raised().args[0][-10:],
        lambda: str(raised())[-10:],
        lambda: loads("[1]", parse_int=lambda x: function) and dumps(1, default=str) and dumps(function, default=str),
    )[n]()


def raised():
    try:
        [].index(function)
    except ValueError as error:
        return error


@procedure
def addresses(tx, n):
    try:
        with_address(int(n))
    except ValueError as error:
        return str(error)
    return "no error"


@procedure
def formatted_date(tx, n):
    at = datetime(2024, 7, 1, 12)
    formats = (
        lambda: "{:%s}".format(at),
        lambda: "{0[0]:{1}}".format([at], "%c"),
        lambda: f"{at:%s}",
        lambda: f"{at.date():%x}",
        lambda: f"{at.time():{n}}",
    )
    try:
        formats[int(n)]()
    except ValueError as error:
        return f"{at} {at!s:>20} {at.year:05} {'{}'.format(at)}: {error}"
    return "no error"


@procedure
def texts(tx):
    text = "%s %5.1f" % ("a", 2.5)
    text += " %d" % 7
    n = 17
    n %= 5
    match text:
        case str(matched):
            pass
    return [
        text, n, matched, isinstance("a", str), isinstance(1, (str, bytes)), issubclass(ValueError, Exception),
        "{0} {x:>4} {0[a]}".format({"a": 1.5}, x=b"y".decode()), f"{n!r:>3}|{'z':{n}}|{n=}", str(b"a", "ascii"), str(),
        str.upper("a"), ",".join(map(str, (1, None))), repr("x"), mod(7, 4), f"{text} at 1x5", isinstance(n, str | int),
    ]


@procedure
def clock(tx, n):
    def now(tx):
        return str(tx.now())
    return now([datetime, EPOCH, tx][int(n)])


@procedure
def nested(tx, n):
    def down(n):
        return 0 if n == 0 else down(n - 1) + 1
    tx.call("SET", "deep", down(int(n)))


@procedure
def stubborn(tx):
    while True:
        try:
            try:
                while True:
                    pass
            finally:
                raise ValueError
        except Exception:
            pass


@procedure
def stubborn_iterator(tx):
    def f(x):
        try:
            while True:
                pass
        finally:
            raise StopIteration
    while True:
        list(map(f, [1]))


@procedure
def overflows_unseen(tx):
    def down(n):
        return down(n + 1)
    def g():
        try:
            yield
        finally:
            down(0)
    it = g()
    next(it)
    del it
    tx.call("SET", "a", 1)


@procedure
def cycles(tx, n):
    def g(holder):
        try:
            yield
        finally:
            tx.call("INCR", "collected")
    for i in range(int(n)):
        holder = []
        holder.append(g(holder))
        next(holder[0])


@procedure
def digits(tx, text):
    try:
        tx.call("SET", "digits", len(str(int(text) + 1)))
    except ValueError:
        tx.call("SET", "digits", "too many")


@procedure(replicate="row")
def by_row(tx):
    tx.call("SET", "by", tx.random())


@procedure(replicate="command")
def by_command(tx):
    tx.call("SET", "by", tx.random())


@procedure
def draws(tx, n):
    for i in range(int(n)):
        tx.random()
'''

ACCOUNTS = parse(SOURCE.encode(), "accounts.py")


def refused(text: str) -> list[str]:
    return [str(it) for it in check(ast.parse(text))]


IN_FUNCTION = """
open('x') | open is not allowed: use keys of the store
id(tx) | id is not allowed
hash('x') | hash is not allowed: use hashlib
set() | set is not allowed: use dict.fromkeys
frozenset() | frozenset is not allowed
pow(2, 3) | pow is not allowed
type(tx) | use isinstance
getattr(tx, 'x') | getattr is not allowed
globals() | globals is not allowed
print(1) | print is not allowed
eval('1') | eval is not allowed
exec('1') | exec is not allowed
vars() | vars is not allowed
dir() | dir is not allowed
super() | super is not allowed
memoryview(b'') | memoryview is not allowed
{1, 2} | order of a set
{x for x in ()} | order of a set
global X | use keys of the store
tx.__class__ | __class__ is internal
(lambda: 1).f_globals | f_globals is internal
(lambda: 1)._x | _x is internal
__import__('os') | __import__ is internal
__builtins__ | __builtins__ is internal
__debug__ | __debug__ is internal
tx.x = 1 | attributes cannot be set
tx.x += 1 | attributes cannot be set
del tx.x | attributes cannot be set
import os | import at the beginning
from os import path | import at the beginning
d = {}; d.keys() & d.keys() | use list
d = {}; k = d.items() | use list
d = {}; k = d.keys | call .keys() where it is used
x.now() | use tx.now()
datetime.now() | use tx.now()
helper(tx) | helper is not defined in this file
cast(int, tx) | cast is not defined in this file
tx = x; tx.now() | tx is the transaction
d = {}; max(d.keys(), d.keys(), key=len) | use list
d = {}; sum([], d.keys()) | use list
d = {}; max((), default=d.keys()) | use list
d = {}; list = max; list(d.keys(), d.keys()) | use list
x.today() | use tx.now()
x.fromtimestamp(1) | time zone
x.timestamp() | time zone
x.astimezone() | time zone
x.strftime('%c') | depends on the node
2 ** 0.5 | C library
x = 2; x **= 2 | C library
1j | complex
class A: pass | a class in a function
async def g(): pass | async
def g(x=[]): pass | may not be kept
lambda x={}: x | may not be kept
""".strip().splitlines()

AT_TOP = r"""
import random | use tx.random()
import time | use tx.now()
import uuid | use tx.uuid()
import os | the module os is not allowed
import os.path | the module os.path is not allowed
import importlib | the module importlib is not allowed
import replicator.procedures as p | use `from replicator.procedures import
from random import random | use tx.random()
from . import x | not allowed
from math import sin | math.sin is not allowed
from functools import lru_cache | must not be kept
from datetime import tzinfo | datetime.tzinfo is not allowed
from math import * | not allowed
X = [] | may not be kept
X = {} | may not be kept
X = (1, []) | may not be kept
X = tuple([[]]) | may not be kept
X = dict() | may not be kept
X = (i for i in ()) | may not be kept
X = lambda: 1 | may not be kept
X: list = [1] | may not be kept
X = f"{(Y := [])}" | := is not allowed at module level
def f(tx, x=f"{(Y := [])}"): pass | := is not allowed at module level
def tuple(x): return [x]\nX = tuple(1) | may not be kept
X = f.tuple.int() | may not be kept
X = Y = 1 | not allowed at module level
if True: pass | not allowed at module level
for i in (): pass | not allowed at module level
with x: pass | not allowed at module level
class A: x = 1 | a class can only be an exception
class A(Exception): x = [] | a class can only be an exception
class A(dict): pass | a class can only be an exception
async def f(): pass | not allowed at module level
@x\ndef f(): pass | the only decorators
@procedure(replicate='x')\ndef f(): pass | the only decorators
def f(): pass\ndef f(): pass | defined twice
def f(x=[]): pass | may not be kept
import math\nX = math | cannot be used as a value
import math\nmath.sin(1) | not allowed at module level
""".strip().splitlines()

TRIES = r"""
try: pass\nexcept: pass | catch what ends
try: pass\nexcept BaseException: pass | BaseException
try: pass\nexcept (ValueError, BaseException): pass | BaseException
try: pass\nfinally: return | hides what has failed
try: pass\nexcept* ValueError: pass | except*
""".strip().splitlines()


class TestChecks:
    @pytest.mark.parametrize("case", IN_FUNCTION)
    def test_in_a_function(self, case: str) -> None:
        code, _, text = case.rpartition(" | ")
        found = refused(f"def f(tx):\n  x = tx\n  {code}\n")
        assert found and text in found[0] and found[0].startswith("line 3: ")

    @pytest.mark.parametrize("case", AT_TOP)
    def test_at_module_level(self, case: str) -> None:
        code, _, text = case.replace("\\n", "\n").rpartition(" | ")
        assert any(text in it for it in refused(code))

    @pytest.mark.parametrize("case", TRIES)
    def test_handlers(self, case: str) -> None:
        code, _, text = case.replace("\\n", "\n  ").rpartition(" | ")
        assert text in refused(f"def f(tx):\n  {code}\n")[0]

    @pytest.mark.parametrize(
        "code",
        [
            "sorted({'a': 1}.keys())",
            "[k for k, v in x.items()]",
            "for k in x.keys(): pass",
            "'a' in x.keys()",
            "2 ** 32",
            "return tx.now()",
            "def g(): yield 1",
            "n = 0\n  def g():\n    nonlocal n\n    n += 1",
            "match x:\n    case [1, *rest]: return rest",
            "match x:\n    case {'a': a, **others} as all_of_it: return a, others, all_of_it",
            "try: pass\n  except Exception as error: return str(error)",
            "def g(): return 1\n  return g()",
            "return later(tx)\ndef later(tx): return f(tx)",
            "match x:\n    case [1, *rest]: pass",
            "match x:\n    case ValueError(reason=r): pass",
            "max(x.keys(), key=len)",
            "if (n := len(x)): return n",
            "return (lambda: (n := 1))()",
        ],
    )
    def test_allowed(self, code: str) -> None:
        assert refused(f"def f(tx):\n  x = tx\n  {code}\n") == []

    def test_the_transaction_may_have_another_name(self) -> None:
        text = (
            "@procedure\ndef f(transaction, other):\n  helper(transaction)\n  return {}.now()\ndef helper(tx): tx.now()"
        )
        assert refused(text.format("transaction")) == []
        assert "use tx.now()" in refused(text.format("other"))[0]

    @pytest.mark.parametrize("name", ["__hash__", "gi_frame", "timestamp", "keys", "args", "format"])
    def test_attributes_in_patterns(self, name: str) -> None:
        [problem] = refused(f"def f(tx):\n  match tx:\n    case [object({name}=x)]: pass\n".replace("object", "str"))
        assert problem == f"line 3: the attribute {name} is not allowed in a pattern"

    def test_only_names_that_are_allowed_exist(self) -> None:
        for module, names in allowed.MODULES.items():
            line = f"from {module} import {', '.join(sorted(names - {'batched'}))}"  # since Python 3.12
            assert parse(line.encode(), "x.py") == {}

    def test_all_problems_are_shown_with_their_lines(self, tmp_path: Path) -> None:
        file = tmp_path / "p.py"
        file.write_text("import random\n\nX = []\n")
        with pytest.raises(ConfigError, match=r"line 1: .*tx.random\(\)\n.*line 3: "):
            load(file)

    @pytest.mark.parametrize(
        ("source", "text"),
        [
            (b"def f(", "not valid Python"),
            (b"X = 0x" + b"f" * 5000, "not valid Python: Exceeds the limit"),
            (b"\xff", "not valid Python"),
            (b"X = UNKNOWN", "UNKNOWN is not defined"),
            (b"X = Y\nY = 1", "NameError"),
            (b"X = 1 // 0", "ZeroDivisionError"),
            (b"from replicator.procedures import procedure\n@procedure\ndef f(): pass", "must have parameters"),
            (b"from replicator.procedures import procedure\n@procedure\ndef f(tx, *, a): pass", "must have parameters"),
            (b"#" * 2_000_000, "shorten it"),
        ],
    )
    def test_a_file_that_cannot_be_loaded(self, source: bytes, text: str) -> None:
        with pytest.raises(ConfigError, match=text):
            parse(source, "p.py")

    def test_no_file(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match="cannot be read"):
            load(tmp_path / "none.py")

    def test_assertions_hold_whatever_the_options_of_python(self) -> None:
        text = (
            "from replicator.procedures.loading import parse\n"
            "p = parse(b'from replicator.procedures import procedure\\n@procedure\\ndef f(tx): assert False', 'p')\n"
            "p['f'].function(None)"
        )
        done = subprocess.run([sys.executable, "-OO", "-c", text], capture_output=True, text=True)
        assert "AssertionError" in done.stderr


class TestHash:
    def of(self, source: str, name: str = "transfer") -> str:
        return parse(source.encode(), "p.py")[name].hash

    @pytest.mark.parametrize(
        ("old", "new"),
        [
            ('tx.call("HINCRBY", target', 'tx.call("HSET", target'),
            ("or 0)", "or 1)"),  # a helper
            ("1970, 1, 1", "1971, 1, 1"),  # a constant
            ("math.floor(", "math.ceil("),
            ("class TooLittle(Exception)", "class TooLittle(ValueError)"),
        ],
    )
    def test_it_changes_with_what_is_reached(self, old: str, new: str) -> None:
        assert old in SOURCE
        assert self.of(SOURCE.replace(old, new)) != self.of(SOURCE)

    @pytest.mark.parametrize(
        ("old", "new"),
        [
            ('"""Move an amount."""', "# a comment"),
            ("tx: Transaction, source: str", "tx, source"),
            ("\n\n\n@procedure\ndef transfer", "\n\n\n\nUNUSED = 1\n@procedure\ndef transfer"),
            ('tx.call("HSET", account', 'tx.call("HSETNX", account'),  # another procedure
            ("@procedure\ndef transfer", '@procedure(replicate="row")\ndef transfer'),
        ],
    )
    def test_it_stays_otherwise(self, old: str, new: str) -> None:
        assert old in SOURCE
        assert self.of(SOURCE.replace(old, new)) == self.of(SOURCE)

    def test_it_is_the_same_in_all_versions(self) -> None:
        source = (
            "from replicator.procedures import procedure\n@procedure\ndef f(tx, *a):\n  return f'{a!r:>5}', a[1:], -1"
        )
        assert self.of(source, "f") == "c4c5afa19083d8e62c9c3b57a7071656b72df6259be3d1f208ec9a0d14179b25"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ServerThread]:
    server = ServerThread(tmp_path, nodes=3, timing=STEADY, procedures=ACCOUNTS)
    for it in server.cluster.nodes.values():
        it.node._context.replica.execute = Replay(ACCOUNTS)
    set_replication(server, Replication.COMMAND)
    with server.client() as client:
        client.execute_command("REPL.SQL", "CREATE TABLE moves (id TEXT PRIMARY KEY, at TEXT, n INT)")
    yield server
    server.close()


def call(client: Any, *line: object) -> Any:
    return client.execute_command("REPL.CALL", *line)


def test_transfers(server: ServerThread, client: Any) -> None:
    call(client, "fill", "ada", 10)
    assert call(client, "transfer", "ada", "bob", 3) == 3
    client.execute_command("REPL.BY", "row", "REPL.CALL", "transfer", "ada", "bob", 3)
    line = ("REPL.ONCE", "id", "REPL.CALL", "transfer", "ada", "bob", 1)
    assert [client.execute_command(*line) for _ in range(2)] == [7, 7]
    assert [type(it) for it in bodies(server)[1:]] == [Command, Command, Write, Command]
    transfer = bodies(server)[2]
    assert [it.name for it in transfer.tape] == ["procedure", "now", "uuid", "random"]
    assert ENGINE in transfer.engine.split(",") and "sqlite:" in transfer.engine
    check_equal(server)
    assert call(client, "values", "x") == b"x" and client.keys("*") == [b"ada", b"bob"]


def test_an_exception_has_no_effect(server: ServerThread, client: Any, caplog: pytest.LogCaptureFixture) -> None:
    call(client, "fill", "ada", 10)
    before = len(bodies(server))
    with caplog.at_level(logging.WARNING):
        with pytest.raises(redis.ResponseError, match=r"^procedure transfer: TooLittle: ada has 10$"):
            call(client, "transfer", "ada", "bob", 11)
        with pytest.raises(redis.ResponseError, match="procedure transfer: ValueError: invalid literal"):
            call(client, "transfer", "ada", "bob", "x")
        with pytest.raises(redis.ResponseError, match="procedure transfer: TypeError"):
            call(client, "transfer", "ada")
    assert "Traceback" in caplog.text and "TooLittle: ada has 10" in caplog.text
    assert len(bodies(server)) == before


def test_in_multi(server: ServerThread, client: Any) -> None:
    with client.pipeline() as pipeline:
        pipeline.set("a", 1)
        for amount in (5, 100):
            pipeline.execute_command("REPL.CALL", "fill", "ada", amount)
            pipeline.execute_command("REPL.CALL", "transfer", "ada", "bob", 50)
        replies = pipeline.execute(raise_on_error=False)
    assert isinstance(replies[2], redis.ResponseError) and replies[4] == 50
    with client.pipeline() as pipeline:
        pipeline.set("a", 2)
        pipeline.execute_command("REPL.CALL", "long")
        with pytest.raises(redis.ResponseError, match=f"more than {MAX_EXEC_MS} ms"):
            pipeline.execute()
    assert client.get("a") == b"1"
    check_equal(server)


def test_between_begin_and_commit(server: ServerThread, client: Any) -> None:
    for statement in ("BEGIN", "SAVEPOINT s"):
        client.execute_command("REPL.SQL", statement)
    call(client, "fill", "ada", 10)
    client.execute_command("REPL.SQL", "ROLLBACK TO s")
    call(client, "fill", "ada", 20)
    with pytest.raises(redis.ResponseError, match="TooLittle"):
        call(client, "transfer", "ada", "bob", 50)
    call(client, "transfer", "ada", "bob", 5)
    client.execute_command("REPL.SQL", "COMMIT")
    assert client.hget("ada", "balance") == b"15"
    check_equal(server)


def test_values(server: ServerThread, client: Any) -> None:
    assert call(client, "values", "nested") == {b"a": [1, b"2.5", None, b"\xff", [1, b"x"]]}
    assert call(client, "values", b"\xff\x00") == b"\xff\x00"
    for what in ("object", "address", "large"):
        with pytest.raises(redis.ResponseError, match="procedure values: "):
            call(client, "values", what)


def test_errors_of_commands_can_be_caught(server: ServerThread, client: Any) -> None:
    assert b"no such table" in call(client, "catches", "k")
    assert (client.get("k"), client.get("caught")) == (b"text", b"ERR value is not an integer or out of range")
    check_equal(server)


def test_limits(server: ServerThread, client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tape, "MAX_TAPE_CALLS", 10)
    for line, text in (
        (("long",), "CPU time"),
        (("deep",), "nested more than about 900 times"),
        (("draws", 11), "at most 10 "),
    ):
        with pytest.raises(redis.ResponseError, match=text):
            call(client, *line)
    assert client.keys("*") == []


def test_each_procedure_chooses(server: ServerThread, client: Any) -> None:
    call(client, "by_row")
    set_replication(server, Replication.ROW)
    call(client, "by_command")
    call(client, "fill", "ada", 1)
    client.execute_command("REPL.BY", "row", "REPL.CALL", "by_command")
    assert [type(it) for it in bodies(server)[1:]] == [Write, Command, Write, Write]
    check_equal(server)


def test_a_changed_procedure_needs_a_new_name(server: ServerThread, client: Any) -> None:
    call(client, "fill", "ada", 1)
    changed = parse(SOURCE.replace('"HSET", account', '"HSETNX", account').encode(), "p.py")
    server.servers[0].programs.procedures = changed
    with pytest.raises(redis.ResponseError, match=r"procedure fill was changed without a new name: .* such as fill_2"):
        call(client, "fill", "ada", 2)
    assert [b"fill", ACCOUNTS["fill"].hash.encode(), b"changed"] in client.execute_command("REPL.PROCEDURES")
    server.servers[0].programs.procedures = NONE
    with pytest.raises(redis.ResponseError, match="procedure fill is not loaded at this node"):
        call(client, "fill", "ada", 2)
    assert client.execute_command("REPL.PROCEDURES") == [[b"fill", ACCOUNTS["fill"].hash.encode(), b"missing"]]
    with client.pipeline() as pipeline:
        pipeline.set("a", 1)
        pipeline.execute_command("REPL.CALL", "fill", "ada", 3)
        pipeline.execute(raise_on_error=False)
    command = bodies(server)[-1]
    assert isinstance(command, Command) and command.lines == ((b"SET", b"a", b"1"),)
    check_equal(server)


def test_the_list(server: ServerThread, client: Any) -> None:
    states = {name: state for name, _, state in client.execute_command("REPL.PROCEDURES")}
    assert set(states.values()) == {b"new"} and states.keys() == {it.encode() for it in ACCOUNTS}
    call(client, "fill", "ada", 1)
    follower = server.client(1).execute_command("REPL.READ", "linearizable", "REPL.PROCEDURES")
    assert [b"fill", ACCOUNTS["fill"].hash.encode(), b"ready"] in follower


def test_the_list_of_a_cluster(server: ServerThread, client: Any) -> None:
    call(client, "fill", "ada", 1)
    server.run(server.cluster.caught_up())
    addresses = {f"n{number}": Address("127.0.0.1", it.port) for number, it in enumerate(server.servers, 1)}
    nowhere = {"n4": Address("127.0.0.1", 1)}
    found, failures = list_procedures(addresses | nowhere, "")
    fill = next(it for it in found if it.name == "fill")
    assert (fill.hash, fill.nodes) == (ACCOUNTS["fill"].hash, dict.fromkeys(addresses, "ready"))
    assert failures.keys() == {"n4"}
    with pytest.raises(NodeUnreachable, match="no node answers"):
        list_procedures(nowhere, "")
    assert nodes_without(ACCOUNTS, addresses | nowhere, "") == ["n4"]
    assert nodes_without(ACCOUNTS, nowhere, "") == ["n4"]
    new = parse(b"from replicator.procedures import procedure\n@procedure\ndef new(tx): pass", "p.py")
    server.servers[1].programs.procedures = {**ACCOUNTS, **new}
    assert nodes_without({**ACCOUNTS, **new}, addresses, "") == [it for it in addresses if it != "n2"]
    server.servers[0].programs.procedures = NONE
    assert nodes_without(ACCOUNTS, addresses, "") == ["n1"]
    assert list_procedures({"n1": addresses["n1"]} | nowhere, "")[0][0].nodes == {"n1": "missing"}


def test_a_node_that_has_failed_is_named_with_its_state() -> None:
    members = [MemberInfo(id, "async", None, Address("h", 1), 0) for id in ("n1", "n2")]
    failed, lost = NodeInfo("n1", FAILED, "the log is damaged"), NodeInfo("n2", UNREACHABLE, "refused")
    statuses = [MemberStatus(it, StatusReply("c", node)) for it, node in zip(members, (failed, lost), strict=True)]
    assert explained({"n1": "LOADING", "n2": "refused"}, statuses) == [
        "n1 is failed (the log is damaged)",
        "n2 does not answer (refused)",
    ]


def test_the_client(server: ServerThread) -> None:
    with Client([f"127.0.0.1:{server.port}"], cluster="test") as client:
        assert client.call("values", "x", id="1") == b"x"
        with pytest.raises(Rejected, match="TooLittle"):
            client.call("transfer", "ada", "bob", 5)


class TestReplay:
    def first_call(self, procedures: Procedures, *line: str) -> Any:
        entries, hash = MemoryEntries(), ACCOUNTS[line[0]].hash
        words = (b"REPL.CALL", *(it.encode() for it in line))
        command = Command(ENGINE, (words,), (Call("procedure", hash),), NOW_MS, 2, 0)
        return finish(Replay(procedures)(command, entries))

    def test_the_first_call_registers(self) -> None:
        changes = self.first_call(ACCOUNTS, "fill", "ada", "5")
        assert next(iter(changes.values())).table == PROCEDURES_TABLE

    @pytest.mark.parametrize(
        ("procedures", "text"),
        [
            (NONE, "this node has not loaded it: start it with the file"),
            (
                parse(SOURCE.replace('"HSET", account', '"HSETNX", account').encode(), "p.py"),
                "another one of that name",
            ),
        ],
    )
    def test_a_replica_without_it(self, procedures: Procedures, text: str) -> None:
        with pytest.raises(UpgradeNeeded, match=text):
            self.first_call(procedures, "fill", "ada", "5")
        with pytest.raises(UpgradeNeeded, match=text):  # registered already
            entries = MemoryEntries()
            entries.stored |= {key: it.new for key, it in self.first_call(ACCOUNTS, "fill", "ada", "5").items()}
            assert registered(entries, "fill") == ACCOUNTS["fill"].hash
            finish(
                Replay(procedures)(Command(ENGINE, ((b"REPL.CALL", b"fill", b"a", b"1"),), (), NOW_MS, 1, 0), entries)
            )

    def test_another_python(self) -> None:
        with pytest.raises(UpgradeNeeded, match=r"executed by python 3\.2"):
            command = Command("python:3.2", ((b"REPL.CALL", b"fill", b"a", b"1"),), (), NOW_MS, 1, 0)
            finish(Replay(ACCOUNTS)(command, MemoryEntries()))


def lead(*line: str) -> tuple[Reply, WritableKeyspace]:
    """Without a server."""
    keyspace = WritableKeyspace(Transaction(MemoryEntries()), NOW_MS, Programs(ACCOUNTS))
    args = [b"REPL.CALL", *(it.encode() for it in line)]
    return look_up(args).handler(keyspace, args), keyspace


def replayed(keyspace: WritableKeyspace, *line: str) -> dict[bytes, Any]:
    command = to_log(keyspace, [[b"REPL.CALL", *(it.encode() for it in line)]])
    return dict(finish(Replay(ACCOUNTS)(command, MemoryEntries())))


def at_depth(frames: int, function: Callable[[], T]) -> T:
    return at_depth(frames - 1, function) if frames else function()


def test_texts() -> None:
    reply, _ = lead("texts")
    assert reply == [
        b"a   2.5 7", 2, b"a   2.5 7", 1, 0, 1, b"{'a': 1.5}    y 1.5", b"  2|z |n=2", b"a", b"", b"A", b"1,None",
        b"'x'", 3, b"a   2.5 7 at 1x5", 1,
    ]  # fmt: skip


def test_formats_of_dates_are_refused_as_they_depend_on_the_node() -> None:
    for number in range(5):
        reply, _ = lead("formatted_date", str(number))
        assert isinstance(reply, bytes)
        assert reply.startswith(
            b"2024-07-01 12:00:00  2024-07-01 12:00:00 02024 2024-07-01 12:00:00: a format of a date"
        )


@pytest.mark.parametrize("number", range(SOURCE[: SOURCE.index("def formatted_date")].count("\n        lambda: ")))
def test_texts_have_no_addresses(number: int) -> None:
    reply, _ = lead("addresses", str(number))
    assert isinstance(reply, bytes) and re.search(b"address of the memory|may not name attributes", reply)


def test_the_time_is_on_the_tape() -> None:
    for number in "01":
        with pytest.raises(ProcedureFailed, match=r"use tx.now\(\)"):
            lead("clock", number)
    reply, keyspace = lead("clock", "2")
    assert isinstance(keyspace.tape, Recorder) and reply == str(keyspace.tape.calls[-1].result).encode()


@pytest.mark.parametrize(
    ("what", "text"),
    [
        ("surrogate", r"ValueError: \?$"),
        ("address", "KeyError: <function raises.<locals>.<lambda>>, 'address'$"),
        ("digits", "ValueError: its text cannot be shown$"),
        ("wide", r"ValueError: \[\[\[\[\.\.\.\]"),
        ("deep", r"ValueError: \[\[\[\[\.\.\.\]"),
    ],
)
def test_any_exception_is_an_error(what: str, text: str, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(ProcedureFailed, match=rf"^procedure raises: {text}") as caught:
        lead("raises", what)
    error_reply(caught.value).text.encode()
    assert "in raises" in caplog.text


def test_the_log_shows_the_cause(caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(ProcedureFailed, match="ValueError: second"):
        lead("raises", "chain")
    assert "ValueError: second\n\nwhich was raised after:\nTraceback" in caplog.text
    assert "KeyError: 'first'" in caplog.text


def test_a_reply_has_so_many_values() -> None:
    for count in (MAX_PROCEDURE_ITEMS, MAX_PROCEDURE_ITEMS + 1):
        with pytest.raises(ProcedureFailed, match=f"at most {MAX_PROCEDURE_ITEMS} values"):
            lead("many", str(count))
    with pytest.raises(ProcedureFailed, match=r"at most 32766 parameters"):
        lead("parameters", "40000")


def test_the_time_is_looked_at_while_a_reply_is_converted() -> None:
    looks = []
    ReplyOfProcedure(lambda: looks.append(1)).convert([[1] * 5000] * 2)
    assert len(looks) == 11
    large = [[1] * 100] * 600
    assert ReplyOfProcedure(lambda: None, limited=False).convert(large) == large
    with pytest.raises(ValueError, match="values"):
        ReplyOfProcedure(lambda: None).convert(large)


class TestRuns:
    """The same result whatever the process is like."""

    def test_the_leader_allows_the_same_depth_however_deep_its_stack_is(self) -> None:
        for depth in (0, 300):
            at_depth(depth, lambda: lead("nested", str(MAX_PROCEDURE_DEPTH - 50)))
            with pytest.raises(ProcedureEnded, match=f"nested more than about {MAX_PROCEDURE_DEPTH} times; use a loop"):
                at_depth(depth, lambda: lead("nested", str(MAX_PROCEDURE_DEPTH)))
        assert sys.getrecursionlimit() == 1000

    def test_a_replica_allows_a_deeper_stack(self) -> None:
        line = ("nested", str(MAX_PROCEDURE_DEPTH - 50))
        _, keyspace = lead(*line)
        assert at_depth(700, lambda: replayed(keyspace, *line)) == keyspace.transaction.changes
        assert sys.getrecursionlimit() == 1000

    def test_an_overflow_that_python_ignores_ends_the_procedure(self) -> None:
        with pytest.raises(ProcedureEnded, match="nested more than"):
            lead("overflows_unseen")

    def test_garbage_is_not_collected(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(scripts, "MAX_EXEC_MS", 60_000)  # what is collected before takes long
        was = gc.get_threshold()
        gc.set_threshold(1)
        try:
            _, keyspace = lead("cycles", "20")
        finally:
            gc.set_threshold(*was)
        assert gc.isenabled()
        assert [it.table for it in keyspace.transaction.changes.values()] == [PROCEDURES_TABLE]
        gc.collect()  # which runs no `finally` of the procedure

    def test_integers_have_as_many_digits_as_anywhere(self) -> None:
        _, keyspace = lead("digits", "1" * 5000)
        was = sys.get_int_max_str_digits()
        sys.set_int_max_str_digits(0)
        try:
            assert replayed(keyspace, "digits", "1" * 5000) == keyspace.transaction.changes
            assert sys.get_int_max_str_digits() == 0
        finally:
            sys.set_int_max_str_digits(was)

    def test_cpu_time_of_other_threads_does_not_end_a_procedure(self) -> None:
        """They execute SQL of other clients."""

        def procedure() -> None:
            running._on_time(0, sys._getframe())

        with running.running(procedure, limited=False):
            running._Run.until_s = time.thread_time() + 1000
            procedure()
            assert not running._Run.is_over
        with pytest.raises(running.Ended), running.running(procedure, limited=False):
            running._Run.until_s = time.thread_time()
            procedure()

    @pytest.mark.parametrize("name", ["endless", "stubborn", "stubborn_iterator"])
    def test_a_procedure_that_computes_for_ever_is_ended(self, name: str) -> None:
        """In the main thread, as in a node."""
        if threading.current_thread() is not threading.main_thread():
            pytest.skip("needs the main thread")
        with pytest.raises(ProcedureEnded, match="was ended after 100 ms"):
            lead(name)


def test_the_example_of_the_documentation(serve: Any) -> None:
    page = (DOCS / "procedures.md").read_text()
    source = page.split("```python\n")[1].split("```")[0]
    server = serve(procedures=parse(source.encode(), "accounts.py"))
    with server.client() as client:
        client.hset("ada", "balance", 10)
        assert call(client, "transfer", "ada", "bob", 3) == {b"source": 7, b"target": 3}


def test_the_command_line(tmp_path: Path) -> None:
    file = tmp_path / "p.py"
    file.write_text(SOURCE)
    line = [sys.executable, "-m", "replicator", "procedure", "check", str(file)]
    done = subprocess.run([*line, "--json"], capture_output=True, text=True)
    assert {it["name"]: it["hash"] for it in json.loads(done.stdout)} == {it.name: it.hash for it in ACCOUNTS.values()}
    file.write_text("def p(tx): pass")
    done = subprocess.run(line, capture_output=True, text=True)
    assert done.returncode == 1 and "has no procedures: put @procedure before" in done.stderr
    file.write_text("import random")
    done = subprocess.run(line, capture_output=True, text=True)
    assert done.returncode == 1 and "use tx.random()" in done.stderr and "Traceback" not in done.stderr
    run = [sys.executable, "-m", "replicator", "node", "run", "--id", "n1", "--cluster", "c", "--bootstrap", "h:1"]
    done = subprocess.run([*run, "--dir", str(tmp_path), "--procedures", str(file)], capture_output=True, text=True)
    assert done.returncode == 1 and "use tx.random()" in done.stderr and "Traceback" not in done.stderr
