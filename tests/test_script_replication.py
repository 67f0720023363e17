"""Scripts in the log as commands: what is the same at every replica, and what is logged by row as it may not be."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import redis

from replicator.errors import BadRequest, Diverged
from replicator.records.tape import Call
from replicator.records.types import Command, Write
from replicator.server.keyspace import WritableKeyspace
from replicator.server.programs import Programs
from replicator.server.redis.commands import look_up
from replicator.server.redis.execution import Replay
from replicator.server.scripts import ENGINE, engine
from replicator.server.scripts.bytecode import compile_lua
from replicator.steps import finish
from replicator.store.view import Transaction
from tests.command_log_fixture import bodies, check_equal, client, server
from tests.keyspace_fixture import NOW_MS, MemoryEntries
from tests.redis_fixture import ServerThread
from tests.test_scripts import RATE_LIMIT

__all__ = ["client", "server"]

RELEASE = "if redis.call('get', KEYS[1]) == ARGV[1] then return redis.call('del', KEYS[1]) else return 0 end"


def test_scripts_of_clients(server: ServerThread, client: Any) -> None:
    limit = client.register_script(RATE_LIMIT)
    for now in (0, 10, 20, 30, 99, 100, 115):
        limit(["calls"], [now * 1000, 100_000, 3, now])  # the leader deletes by row what has expired
    client.set("lock", "me")
    assert client.register_script(RELEASE)(["lock"], ["me"]) == 1
    lock = client.lock("resource", timeout=10)
    assert lock.acquire(blocking=False)
    lock.extend(20)
    lock.release()
    client.eval("redis.call('SET', 'r', math.random() .. redis.call('TIME')[2]) return cjson.encode({a = 1})", 0)
    client.eval("local t = {} for i = 1, 99 do t['k' .. i] = i t['k' .. i % 7] = nil end "
                "for k, v in pairs(t) do redis.call('APPEND', 'order', k) end", 0)  # fmt: skip
    with pytest.raises(redis.ResponseError, match="user_script"):
        client.eval("redis.call('SET', 'kept', 1) error('x')", 0)
    assert {type(it) for it in bodies(server)} == {Command}
    assert all(line[0] != b"EVALSHA" for it in bodies(server) for line in it.lines)
    check_equal(server)


def test_multi_and_once_with_a_digest(server: ServerThread, client: Any) -> None:
    sha = client.script_load("return redis.call('INCRBY', KEYS[1], ARGV[1])")
    with client.pipeline() as pipeline:
        pipeline.set("a", 1)
        pipeline.evalsha(sha.upper(), 1, "a", 5)
        pipeline.eval("return redis.call('INCR', 'a')", 0)
        assert pipeline.execute() == [True, 6, 7]
    line = ("REPL.ONCE", "id", "REPL.BY", "command", "EVALSHA", sha, 1, "a", 3)
    assert [client.execute_command(*line) for _ in range(2)] == [10, 10]
    client.script_flush()
    with_text = ("EVAL", "return redis.call('INCRBY', KEYS[1], ARGV[1])", 1, "a", 3)
    assert client.execute_command("REPL.ONCE", "id", "REPL.BY", "command", *with_text) == 10
    first, second = bodies(server)
    assert (first.engine, [line[0] for line in first.lines]) == (ENGINE, [b"SET", b"EVAL", b"EVAL"])
    assert second.lines[0][4:6] == (b"EVAL", with_text[1].encode())
    check_equal(server)


def test_what_is_not_repeatable_is_logged_by_row(server: ServerThread, client: Any) -> None:
    client.eval("redis.call('SET', 'sin', math.sin(tonumber(ARGV[1])))", 0, 1)
    client.eval("local t = {[{}] = 'a', [{}] = 'b'} for k, v in pairs(t) do redis.call('APPEND', 'x', v) end", 0)
    with client.pipeline() as pipeline:
        pipeline.set("a", 1)
        pipeline.eval("return redis.call('SET', 'b', 10 ^ 2)", 0)
        pipeline.execute()
    assert [type(it) for it in bodies(server)] == [Write] * 3
    check_equal(server)


def test_a_script_that_was_ended_is_not_in_the_log(server: ServerThread, client: Any) -> None:
    for ending in ("while true do end", "local s = 'x' while true do s = s .. s end"):
        with pytest.raises(redis.ResponseError, match="script"):
            client.eval(f"redis.call('SET', 'a', 1) {ending}", 0)
    client.eval("redis.call('SET', 'b', 1)", 0)
    assert [it.lines[0][1] for it in bodies(server)] == [b"redis.call('SET', 'b', 1)"]
    check_equal(server)


def test_a_command_that_is_too_large_is_logged_by_row(server: ServerThread, client: Any) -> None:
    sha = client.script_load("return redis.call('SET', 'a', 1) --" + "x" * 60_000)
    with client.pipeline() as pipeline:
        for _ in range(70):
            pipeline.evalsha(sha, 0)
        pipeline.execute()
    assert [type(it) for it in bodies(server)] == [Write]


# Without a server


def run(script: str, *values: bytes, programs: Programs | None = None) -> bool:
    """Whether it is repeatable."""
    keyspace = WritableKeyspace(Transaction(MemoryEntries()), NOW_MS, programs)
    args = [b"eval", script.encode(), b"0", *values]
    look_up(args).handler(keyspace, args)
    return keyspace.command_info.is_repeatable


REPEATABLE = """
return tostring({}) .. math.random() .. math.floor(2.5) .. math.fmod(5, 3) .. 7 % 4 .. math.sqrt(2) .. collectgarbage()
local t = {} for i = 1, 50 do t['k' .. i] = i end for k in pairs(t) do t[k] = nil end return next(t)
return ('^x'):find('^[^x]') -- 2 ^ 3
return [[ ^ ]] .. [==[ ]] ^ ]==] .. "\\"^" --[[ a ^ ]]
return cjson.encode(cjson.decode('{"a": [1, {"b": null}]}'))
return pcall(error, {1})
return pcall(function() local x = nil + 1 end)
for k in pairs(string) do end
local t = {3, 1, 2} table.sort(t) table.foreach(t, type) return t
return redis.call('TIME')
local s = 0 for i = 1, 1000 do s = s + #tostring({i}) end return s
return coroutine.wrap(function() coroutine.yield(1) end)()
""".strip().splitlines()

GARBAGE = "local n = 0 for i = 1, 3000 do n = n + #{i, 'x' .. i, {}, {}} end"

RULES = [
    ("math.sin(1)", "repeatable = false\n    return placed(name", "return placed(name"),
    ("return math.exp(1)", "repeatable = false\n    return placed(name", "return placed(name"),
    ("for k in pairs({1, [type] = 1}) do break end", "    if key == nil then check_order(t, MAX_TABLE) end\n", ""),
    ("local n = pairs({}) n({[{}] = 1})", "  return iterator(", "  return next, iterator("),
    ("next({[{}] = 1})", "ORDERED = { string", "ORDERED = { table = true, string"),
    ("local t = {} next(t) t[{}] = 1 next(t, nil)", "ORDERED = { string", "ORDERED = { table = true, string"),
    ("local t = {} for i = 1, 2000 do t[i] = i end next(t)", "or n > most then", "then"),
    ("table.foreach({[{}] = 1}, type)", "foreach = foreach_", "foreach = table.foreach"),
    ("return {set = {[{}] = 1}}", "    check_order(set, MAX_TABLE)\n", ""),
    ("return {map = {[{}] = 1}}", "    check_order(map, MAX_TABLE)\n", ""),
    ("pcall(cjson.encode, {[{}] = 1})", "function(t) check_order(t, MAX_TABLE) end", "function() end"),
    ("local function f() return ('a'):gsub('a', f) end pcall(f)", "then repeatable = false end\nend", "then end\nend"),
    ("local function f() return ('a'):gsub('a', f) end xpcall(f, type)",
     "then repeatable = false end\nend", "then end\nend"),
    ("local function f() return ('a'):gsub('a', f) end return f()",
     "then repeatable = false end\nend", "then end\nend"),
    ("local function f() return ('a'):gsub('a', f) end coroutine.resume(coroutine.create(f))",
     "then repeatable = false end\nend", "then end\nend"),
    ("return loadstring('return 2 ^ 3')()", "then repeatable = false end\n  local chunk", "then end\n  local chunk"),
    (GARBAGE, "collecting, repeatable = true, false", "collecting = true"),
    ("local t = setmetatable({}, {__mode = 'k'}) t[{}] = 1 " + GARBAGE, "collecting, repeatable = true, false",
     "collecting = true"),
]  # fmt: skip


@pytest.mark.parametrize("script", REPEATABLE)
def test_repeatable(script: str) -> None:
    assert run(script)


@pytest.mark.parametrize(("script", "rule", "without"), RULES)
def test_each_rule_is_needed(script: str, rule: str, without: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not run(script)
    library = engine._library

    def mutated(name: bytes) -> bytes:
        if name != b"sandbox":
            return library(name)
        text = (Path(engine.__file__).parent / "sandbox.lua").read_text()
        assert rule in text
        return compile_lua(text.replace(rule, without).encode(), b"=sandbox")

    monkeypatch.setattr(engine, "_library", mutated)
    assert run(script)


@pytest.mark.parametrize(
    "script", ["return 2 ^ 0.5", "local a = 2 return a^a", "return '--' .. 2 ^ 3", "--\r return 2 ^ 3"]
)
def test_the_operator_of_the_library(script: str) -> None:
    assert not run(script)


def test_cursors_are_those_of_a_node() -> None:
    assert not run("return redis.call('SCAN', 0)")
    assert run("return redis.call('KEYS', '*')")


def test_a_locale_with_other_letters(monkeypatch: pytest.MonkeyPatch) -> None:
    assert engine.has_plain_locale()
    monkeypatch.setattr(engine, "has_plain_locale", lambda: False)
    assert not run("return 1")


# What the leader has executed within its limits, a replica executes however slow it is.


def replay(*lines: tuple[bytes, ...], changes: int = 1, tape: tuple[Call, ...] = ()) -> dict[bytes, Any]:
    return dict(finish(Replay()(Command(ENGINE, lines, tape, NOW_MS, changes, 0), MemoryEntries())))


@pytest.mark.parametrize(
    "script",
    ["for i = 1, 5000000 do end", "local t = {} for i = 1, 90 do t[i] = string.rep('x' .. i, 50000) end"],
)
def test_limits_are_those_of_the_leader(script: str) -> None:
    script += " redis.call('SET', 'a', 1)"
    with pytest.raises(Exception, match=r"CPU time|memory"):
        run(script)
    assert len(replay((b"EVAL", script.encode(), b"0"))) == 1


def test_a_replica_compiles_what_an_older_leader_has_compiled() -> None:
    many = ",".join(f"a{i}" for i in range(190))
    script = "redis.call('SET', 'a', 1) " + f"local f = function({many}) " * 20 + "x=x " * 4000 + " end" * 20
    with pytest.raises(BadRequest, match="so many local variables"):
        run(script)
    assert len(replay((b"EVAL", script.encode(), b"0"))) == 1


def test_a_replica_that_cannot_execute_a_script_stops() -> None:
    script = "local t = {} for i = 1, 900 do t[i] = string.rep('x' .. i, 50000) end"
    with pytest.raises(Diverged, match=r"fails here: the script needs more"):
        replay((b"EVAL", script.encode(), b"0"))


def test_errors_that_depend_on_a_size_are_the_same() -> None:
    script = "local ok = pcall(string.rep, 'x', 5000000) redis.call('SET', 'a', tostring(ok))"
    assert run(script)
    [change] = replay((b"EVAL", script.encode(), b"0")).values()
    assert change.new[1:] == b"false"


def test_the_order_does_not_depend_on_earlier_runs() -> None:
    script = """
    local t, order = {}, {}
    for round = 1, 4 do
      for i = 1, 300 do t['key' .. i * round % 211] = i end
      for i = 1, 300, 2 do t['key' .. i] = nil end
    end
    for key in pairs(t) do order[#order + 1] = key end
    redis.call('SET', 'a', table.concat(order, ' '))
    """
    line = (b"EVAL", script.encode(), b"0")
    first = replay(line)
    for earlier in (20, 300, 1500):
        programs = Programs()
        for _ in range(20):
            run(f"local t = {{}} for i = 1, {earlier} do t['x' .. i] = {{i}} end return #t", programs=programs)
        keyspace = WritableKeyspace(Transaction(MemoryEntries()), NOW_MS, programs)
        look_up([*line]).handler(keyspace, [*line])
        assert keyspace.command_info.is_repeatable and keyspace.transaction.changes == first


@pytest.mark.parametrize(
    "script",
    [
        "error(function() end)",
        "error(cjson.null)",
        "error(coroutine.create(type))",
        "return tostring(setmetatable({}, {__metatable = {__tostring = true}}))",
    ],
)
def test_addresses_are_not_shown(script: str) -> None:
    """REPL.ONCE keeps replies in the store, which are the same at all nodes."""
    keyspace = WritableKeyspace(Transaction(MemoryEntries()), NOW_MS)
    args = [b"eval", script.encode(), b"0"]
    reply = look_up(args).handler(keyspace, args)
    assert re.search(r"0x0000000000[0-9a-f]{2}|\(nil\)", str(reply)) and keyspace.command_info.is_repeatable


def test_a_map_may_have_numbers_as_names(client: Any) -> None:
    assert client.eval("return {map = {[7] = 'a'}}", 0) == {7: b"a"}
