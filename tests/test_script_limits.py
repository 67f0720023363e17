"""Scripts that try to leave their environment, or to take more than they may."""

from __future__ import annotations

import random
import re
import subprocess
import sys
import time
from typing import Any

import pytest
import redis
from lupa.lua51 import LuaRuntime

from replicator.errors import TransactionTooLarge
from replicator.limits import MAX_EXEC_MS, MAX_SCRIPT_ARGUMENT_BYTES, MAX_SCRIPT_BYTES
from replicator.server.redis.resp import Error, Reply
from replicator.server.scripts import ScriptEnded
from replicator.server.scripts.bytecode import can_patch
from tests.test_scripts import Store

OVERRUN_MS = 30  # of CPU time, after MAX_EXEC_MS; about 10 on an idle machine

ENDLESS = """
while true do end
while true do pcall(function() while true do end end) end
local function f() pcall(f) pcall(f) end f()
xpcall(function() while true do end end, function() while true do end end)
while true do xpcall(function() error('x') end, function() while true do end end) end
local function r() return r() + 1 end xpcall(r, function() while true do end end)
coroutine.wrap(function() while true do end end)()
while true do coroutine.resume(coroutine.create(function() while true do end end)) end
while true do coroutine.wrap(function() end)() end
local co = coroutine.create(function() coroutine.yield() while true do end end) for i = 1, 2 do coroutine.resume(co) end
pcall(coroutine.wrap(function() pcall(function() while true do end end) end)) while true do end
local z = string.rep('\\0', 1000000) while true do local b = z < z end
local z = ARGV[1] while true do if z < z then end end
local z = '\\0' for i = 1, 20 do z = z .. z end while true do if z < z then end end
local z = string.rep('\\0', 10000) local t = {} for i = 1, 50000 do t[i] = z end table.sort(t)
table.sort({3, 2, 1}, function() while true do end end)
string.find(string.rep('a', 100000), string.rep('a?', 1000) .. string.rep('a', 1000))
string.match(string.rep('a', 1000), '.*.*.*.*.*b')
string.gsub(string.rep('a', 300000), '.-b', '')
while true do string.gsub(string.rep('a', 3000), '.-b', '') end
for w in string.gmatch(string.rep('a', 3000), '.-.-b') do end
string.find(string.rep('(', 300000), '%b()')
string.gsub('abc', '.', function() while true do end end)
local t = setmetatable({}, {__index = function() while true do end end}) return t.x
local t = setmetatable({}, {__tostring = function() while true do end end}) return tostring(t)
while true do tostring({}) end
while true do loadstring(string.rep('x=1 ', 2000)) end
while true do loadstring('return x' .. string.rep(' and x', 1300)) end
load(function() while true do end end)
loadstring('while true do end')()
while true do cjson.decode('[' .. string.rep('1,', 10000) .. '1]') end
while true do cjson.encode(string.rep('\\1', 500000)) end
while true do pcall(redis.call) end
while true do redis.call('get', 'a') end
while true do redis.pcall('incr') end
while true do collectgarbage() end
local t = {} for i = 1, 90000 do t[i] = i end while true do table.insert(t, 1, 1) table.remove(t, 1) end
local t = {} for i = 1, 100000 do t[i] = 'x' end while true do table.concat(t) end
return (string.rep('a', 900000):gsub('.', string.upper))
return (string.rep('a', 900000):gsub('.', {a = 'b'}))
local t = {} for i = 1, 16000 do t[i] = '' end t = setmetatable(t, {__index = table.concat}) ARGV[1]:gsub('(b*)', t)
local t = {} for i = 1, 16000 do t[i] = i end t = setmetatable(t, {__index = table.maxn}) ARGV[1]:gsub('(b*)', t)
local t = {} for i = 1, 100000 do t[i] = i + .1 end while true do table.concat(t) end
local t = {} for i = 1, 100000 do t[i] = 1 end while true do table.foreachi(t, rawequal) end
local t = {} for i = 1, 100000 do t[i] = 1 end while true do table.foreach(t, rawequal) end
local t = {} for i = 1, 100000 do t[i] = 1 end while true do table.maxn(t) end
local t = {} for i = 1, 50000 do t['k' .. i] = 1 end while true do for k in pairs(t) do break end end
local t = {} t[1] = 1 for i = 1, 30 do t[2 ^ i] = 1 end while true do table.insert(t, 1, 1) end
local a = 'x' for i = 1, 18 do a = a .. a end local k = a .. 'y' while true do local b = a .. 'y' end
""".strip().splitlines()

TOO_MUCH_MEMORY = """
local s = 'x' while true do s = s .. s end
local s = 'x' pcall(function() while true do s = s .. s end end) while true do end
while true do pcall(string.rep, 'x', 3e6) end
string.gsub(string.rep('x', 100000), '', string.rep('y', 100000))
string.gsub('x', 'x', string.rep('%1', 1000000))
local t = {} for i = 1, 100 do t[i] = string.rep('x', 30000) end return table.concat(t) .. table.concat(t, ',')
local t = {} for i = 1, 100 do t[i] = redis.call('echo', string.rep('x', 100000) .. i) end
""".strip().splitlines()

REFUSED = """
string.rep('x', 1e9)
string.rep('x', 2 ^ 53)
table.insert({}, -1e9, 1)
unpack({}, 1, 1e8)
table.concat({}, 'x', 1, 1e9)
string.format('%99999d', 1)
string.dump(function() end)
return os.time()
return io
return require
return package
return debug
return python
return dofile
return loadfile
return getfenv(0)
return setfenv
return newproxy
return module
return print
return jit
x = 1
_G.x = 1
rawset(_G, 'x', 1)
string.find = 1
rawset(string, 'find', 1)
table.insert(string, 1)
getmetatable('').__index = {}
getmetatable('').__index.find = 1
getmetatable('').x = 1
setmetatable(_G, {})
setmetatable(string, {})
redis.call = nil
cjson.decode = nil
coroutine.wrap = nil
KEYS = {}
local function f() coroutine.wrap(f)() end f()
local function f() return f() + 1 end return f()
local t = {} t.t = t return cjson.encode(t)
cjson.decode(string.rep('[', 100000))
redis.call('eval', 'return 1', 0)
redis.call('repl.once', 'x', 'set', 'a', 1)
redis.call('flushall')
redis.call('shutdown')
string.find(string.rep('a', 1000), string.rep('[', 10))
""".strip().splitlines()

HARMLESS = """
return loadstring('\\27Lua' .. string.rep('x', 100))
local n = 0 return load(function() n = n + 1 return n < 9 and '\\27Lua' or nil end)
return string.rep('', 1e9)
return table.remove({}, 1e9)
local t = {} t[1] = t return #t
return getmetatable(string) == 'readonly' and getmetatable(_G) == 'readonly'
for k, v in pairs(string) do string_ = nil break end
local f, t = pairs(string) t.find = 1 return ('a'):find('a')
local s = '' for k, v in pairs(redis) do s = s .. type(v) end return s:find('userdata')
return tostring(redis.call):find('0x0000') and 1
setmetatable({}, {__gc = function() while true do end end}) collectgarbage() return 1
return coroutine.resume(coroutine.create(function() error(setmetatable({}, {__index = error})) end))
return bit.band(0/0, 1/0) + bit.lshift(1, 1e300)
""".strip().splitlines()


def run(store: Store, script: str, *values: bytes) -> Reply:
    return store.eval(script, *values)


def cpu_ms(store: Store, script: str, text: str) -> float:
    started_s = time.thread_time()
    with pytest.raises(ScriptEnded, match=text):
        store.eval(script, b"\0" * MAX_SCRIPT_ARGUMENT_BYTES)
    return (time.thread_time() - started_s) * 1000


@pytest.mark.parametrize("script", ENDLESS)
def test_a_script_without_an_end_is_ended(script: str) -> None:
    store = Store()
    store.eval("return {cjson.null, bit.tobit(1), ('a'):find('b')}")  # loads the libraries
    text = "redis.call('set', 'a', 1) " + script
    # other work on the machine makes some attempts slow, but not each
    assert any(cpu_ms(store, text, "CPU time|memory") < MAX_EXEC_MS + OVERRUN_MS for _ in range(3))
    assert store.eval("return redis.call('exists', 'a')") == 0


@pytest.mark.parametrize("script", TOO_MUCH_MEMORY)
def test_a_script_has_limited_memory(script: str) -> None:
    store = Store()
    with pytest.raises(ScriptEnded, match="memory"):
        store.eval("redis.call('set', 'a', 1) " + script)
    assert store.eval("return redis.call('exists', 'a')") == 0


@pytest.mark.parametrize("script", REFUSED)
def test_a_script_is_refused(script: str) -> None:
    store = Store()
    reply = store.eval(script)
    assert isinstance(reply, Error)
    assert store.eval("return ('abc'):find('c') + #cjson.decode('[1]')") == 4


@pytest.mark.parametrize("script", HARMLESS)
def test_a_script_finds_no_way_out(script: str) -> None:
    store = Store()
    reply = store.eval(script)
    assert isinstance(reply, Error) == ("string_ = nil" in script)
    assert store.eval("return ('abc'):find('c') + #cjson.decode('[1]')") == 4


def test_python_is_not_reachable() -> None:
    script = """
    local seen, found = {}, {}
    local function visit(value, path)
      if type(value) == 'userdata' and value ~= cjson.null then found[#found + 1] = path end
      if type(value) ~= 'table' or seen[value] then return end
      seen[value] = true
      for k, v in pairs(value) do visit(k, path) visit(v, path .. '.' .. tostring(k)) end
      visit(getmetatable(value), path .. ':')
    end
    for _, name in ipairs({'_G', 'string', 'table', 'math', 'coroutine', 'redis', 'cjson', 'bit'}) do
      visit(_G[name], name)
    end
    visit(getmetatable(''), 'text')
    return found
    """
    assert Store().eval(script) == []


def test_the_form_of_bytecode_is_known() -> None:
    assert can_patch()


def test_errors_of_commands_cannot_be_hidden() -> None:
    """What ends a script ends it also inside of pcall, and in a coroutine."""
    store = Store()
    store.entries.run("hset h " + " ".join(f"f{i} x" for i in range(600)))
    many = "for i = 1, 10 do redis.call('hgetall', 'h') end"
    for script in (many, f"pcall(function() {many} end)", f"coroutine.wrap(function() {many} end)()"):
        with pytest.raises(TransactionTooLarge, match="at most"):
            store.eval(f"redis.call('set', 'a', 1) {script} return 1")
    assert store.eval("return redis.call('exists', 'a')") == 0


def test_large_scripts_and_arguments_are_refused(client: Any) -> None:
    with pytest.raises(redis.ResponseError, match="too large"):
        client.eval("-" * (MAX_SCRIPT_BYTES + 1), 0)
    with pytest.raises(redis.ResponseError, match="words and, or"):
        client.eval("return x" + " and x" * 5000, 0)
    many = ",".join(f"a{i}" for i in range(190))
    for opening in (f"local --[[,]] {many}=1 return function() ", f"return function({many}) ", f"for {many} in x do "):
        with pytest.raises(redis.ResponseError, match="so many local variables"):
            client.eval(opening * 20 + "x=x " * 4000 + " end" * 20, 0)
        assert client.script_load(opening + "x=x " * 4000 + " end")
    with pytest.raises(redis.ResponseError, match="1024 KiB"):
        client.eval("return 1", 0, b"x" * (MAX_SCRIPT_ARGUMENT_BYTES + 1))
    assert client.eval("return #ARGV", 0, *range(10_000)) == 10_000
    assert client.eval("return ARGV[9999]", 0, *range(10_000)) == b"9998"


def test_an_ended_script_undoes_its_transaction(client: Any) -> None:
    with pytest.raises(redis.ResponseError, match="CPU time"):
        client.eval("redis.call('SET', 'a', 1) while true do end", 0)
    assert client.get("a") is None
    pipeline = client.pipeline()
    pipeline.set("b", 1)
    pipeline.eval("while true do end", 0)
    with pytest.raises(redis.ResponseError, match="CPU time"):
        pipeline.execute()
    assert client.get("b") is None


def test_the_scripts_of_a_transaction_share_the_limit(client: Any) -> None:
    pipeline = client.pipeline()
    for _ in range(20):
        pipeline.eval("local x = 0 for i = 1, 200000 do x = x + i end", 0)
    with pytest.raises(redis.ResponseError):
        pipeline.execute()


def test_a_reply_is_nested_to_a_limited_depth(client: Any) -> None:
    reply = client.eval("local t = {} t[1] = t return t", 0)
    depth = 0
    while isinstance(reply, list):
        reply, depth = reply[0], depth + 1
    assert isinstance(reply, redis.ResponseError) and depth == 100


NEAR_THE_LIMIT = """
import random, sys
from tests.test_scripts import Store
from replicator.server.scripts import ScriptEnded
draw = random.Random(int(sys.argv[1]))
FILL = ["for i = 1, n do t[i] = 'k' .. i end", "s = string.rep('y', n * 20)", "for i = 1, n / 10 do t[i] = {i} end"]
USE = [
    "redis.call('get', 'v')", "redis.call('echo', string.rep('k', 30000))", "string.find(s, '(y+)x')",
    "cjson.encode({s})", "redis.sha1hex(s)", "bit.band(1, 2)", "string.rep('x', n * 50)",
    "coroutine.wrap(function() return s .. s end)()", "redis.call('hgetall', 'h')", "table.concat({s, s})",
    "loadstring('return ' .. string.rep('{},', 200))", "string.gsub(s, 'y', 'zz')", "error({err = s})",
]
for _ in range(150):
    store = Store()
    store.entries.run("set v " + 500000 * "v", "hset h " + " ".join(f"f{i} text" for i in range(900)))
    n = draw.choice([100, 1000, 5000, 20000, 40000, 60000])
    uses = " ".join(f"pcall(function() {draw.choice(USE)} end)" for _ in range(6))
    loop = draw.choice(["for i = 1, 1 do", "while true do"])
    try:
        store.eval(f"local n, t, s = {n}, {{}}, 'y' {draw.choice(FILL)} {loop} {uses} n = n + 1 end return s")
    except ScriptEnded:
        pass
"""


@pytest.mark.parametrize("seed", range(2))
def test_no_script_ends_the_process(seed: int) -> None:
    """Lua ends the process if memory runs out where it cannot raise an error."""
    done = subprocess.run(
        [sys.executable, "-c", NEAR_THE_LIMIT, str(seed)], capture_output=True, text=True, timeout=100
    )
    assert (done.returncode, done.stderr) == (0, "")


PARTS = ["a", "b", ".", "%a", "[ab]", "[^a]", "%w", "(", ")", "()", "%1", "%b()", "%f[a]", "^", "$", "%%", "[%d]"]
CALLS = [
    "find, S, P",
    "find, S, P, 3",
    "find, S, P, -2",
    "match, S, P",
    "gsub, S, P, '<%0%1>'",
    "gsub, S, P, '-', 2",
    "gsub, S, P, string.upper",
    "gsub, S, P, {a = 1, b = false}",
]
CALL = """
local S, P, all = %r, %r .. '%%z*\0' .. string.rep('x', 600), {}
local function show(...)
  for i = 1, select('#', ...) do all[#all + 1] = tostring((select(i, ...))) end
end
show(pcall(string.%s))
show(pcall(function() for a, b in string.gmatch(S, P) do show(a, b) end end))
return table.concat(all, '|')
"""


def pattern(draw: random.Random) -> str:
    return "".join(draw.choice(PARTS) + draw.choice(["", "", "*", "+", "-", "?"]) for _ in range(draw.randrange(1, 5)))


@pytest.mark.parametrize("seed", range(5))
def test_the_matcher_is_that_of_lua(seed: int) -> None:
    """`patterns.lua` uses its own matcher for patterns that may take long, such as long ones. A zero ends a pattern."""
    draw, lua, store = random.Random(seed), LuaRuntime(encoding=None), Store()
    for _ in range(300):
        subject = "".join(draw.choice("ab(c1 )") for _ in range(draw.randrange(10)))
        script = CALL % (subject, pattern(draw), draw.choice(CALLS))
        position = re.compile(rb"user_script:\d+: |\[[^|]*\]:\d+: ")
        expected = lua.execute(script.encode())
        reply = store.eval(script)
        assert isinstance(reply, bytes)
        assert position.sub(b"", reply) == position.sub(b"", expected), script
