"""Lua scripts, beside those on a real Redis: the same replies, to the last word of each error."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import redis

from replicator.errors import BadRequest
from replicator.limits import MAX_EXEC_MS
from replicator.records.tape import Call, Player, Recorder
from replicator.server.keyspace import Keyspace, WritableKeyspace
from replicator.server.programs import Programs
from replicator.server.redis.commands import look_up, scripts
from replicator.server.redis.info import REDIS_VERSION
from replicator.server.redis.resp import Error, Reply
from replicator.server.scripts.cache import ScriptCache
from replicator.store.view import Transaction
from tests.keyspace_fixture import NOW_MS, MemoryEntries
from tests.redis_fixture import ServerThread, real_redis
from tests.script_cases import SCRIPTS
from tests.test_redis_differential import Raw

SHA = hashlib.sha1(b"return 1").hexdigest().encode()

SETUP = [
    [b"FLUSHALL"],
    [b"SET", b"s", b"abc"],
    [b"SET", b"n", b"10"],
    [b"SET", b"f", b"1"],
    [b"HSET", b"h", b"f", b"1", b"g", b"2"],
]

LINES = [
    [b"EVAL", b"return 1", b"-1"],
    [b"EVAL", b"return 1", b"2", b"a"],
    [b"EVAL", b"return 1", b"x"],
    [b"EVAL", b"return {KEYS[1],KEYS[2],ARGV[1],#KEYS,#ARGV}", b"2", b"a", b"b", b"c\x00\xff"],
    [b"EVAL", b"return type(ARGV[1])", b"0", b"5"],
    [b"EVAL", b"foo(", b"0"],
    [b"EVAL", b"\n\nfoo.bar()", b"0"],
    [b"EVAL"],
    [b"EVAL", b"x"],
    [b"EVALSHA", b"abc", b"0"],
    [b"EVALSHA", SHA, b"x"],
    [b"SCRIPT", b"FLUSH"],
    [b"EVALSHA", SHA, b"0"],
    [b"SCRIPT", b"EXISTS", SHA, b"zz"],
    [b"SCRIPT", b"LOAD", b"return 1"],
    [b"SCRIPT", b"EXISTS", SHA, SHA.upper()],
    [b"EVALSHA", SHA, b"0"],
    [b"EVALSHA", SHA.upper(), b"0"],
    [b"EVAL_RO", b"#!lua\nreturn 1", b"0"],
    [b"EVAL_RO", b"#!lua flags=no-writes\nreturn 1", b"0"],
    [b"EVALSHA_RO", SHA, b"0"],
    [b"SCRIPT", b"FLUSH", b"ASYNC"],
    [b"EVALSHA_RO", SHA, b"0"],
    [b"EVAL", b"return 1", b"0"],
    [b"EVALSHA", SHA, b"0"],
    [b"SCRIPT", b"LOAD", b"foo("],
    [b"SCRIPT", b"FLUSH", b"foo"],
    [b"SCRIPT", b"FLUSH", b"async", b"x"],
    [b"SCRIPT", b"nosuch"],
    [b"SCRIPT", b"KILL"],
    [b"SCRIPT", b"EXISTS"],
    [b"SCRIPT"],
    [b"SCRIPT", b"LOAD"],
    [b"SCRIPT", b"LOAD", b"a", b"b"],
    [b"EVAL_RO", b"return redis.call('set','a',1)", b"0"],
    [b"EVAL_RO", b"return redis.pcall('set','a',1)", b"0"],
    [b"EVAL_RO", b"return redis.call('get','s')", b"0"],
    [b"EVALSHA_RO", b"zz", b"0"],
    [b"EVAL", b"#!lua flags=no-writes\nreturn redis.call('set','a',1)", b"0"],
    [b"EVAL", b"#!lua flags=no-writes,allow-stale\nerror('x')", b"0"],
    [b"EVAL", b"#!lua\nreturn 5", b"0"],
    [b"EVAL", b"#!js\nreturn 1", b"0"],
    [b"EVAL", b"#!lua flags=foo\nreturn 1", b"0"],
    [b"EVAL", b"#!lua name=x\nreturn 1", b"0"],
    [b"EVAL", b"#!lua", b"0"],
    [b"COMMAND", b"GETKEYS", b"EVAL", b"return 1", b"2", b"a", b"b", b"c"],
    [b"MULTI"],
    [b"EVAL", b"return redis.call('incr', KEYS[1])", b"1", b"n"],
    [b"EVAL", b"redis.call('incr', 'n') error('x')", b"0"],
    [b"SCRIPT", b"LOAD", b"return 2"],
    [b"GET", b"n"],
    [b"EXEC"],
    [b"EVAL", b"redis.call('set', 's', 'kept') redis.call('incr', 's')", b"0"],
    [b"GET", b"s"],
    [b"EVAL", b"redis.pcall('mset', 'k') return redis.call('exists', 'k')", b"0"],
]


@pytest.fixture(scope="module")
def redis_port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    with real_redis(tmp_path_factory.mktemp("redis")) as port:
        yield port


def shown(reply: Any) -> str:
    return f"{type(reply).__name__} {reply}"


@pytest.mark.parametrize("protocol", [2, 3])
def test_scripts_run_as_in_redis(
    server: ServerThread, redis_port: int, protocol: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scripts, "MAX_EXEC_MS", 10 * MAX_EXEC_MS)  # Redis has none, and the machine may be slow
    ours, theirs = Raw(server.port, protocol), Raw(redis_port, protocol)
    differences = []
    for script in SCRIPTS:
        if protocol == 3 and "double" in script:  # a bulk string here
            continue
        for line in SETUP:
            ours.ask(*line)
            theirs.ask(*line)
        mine, real = (it.ask(b"EVAL", script.encode(), b"0") for it in (ours, theirs))
        if shown(mine) != shown(real):
            differences.append((script, shown(mine), shown(real)))
    assert not differences
    ours.close()
    theirs.close()


def test_commands_reply_as_in_redis(server: ServerThread, redis_port: int) -> None:
    ours, theirs = Raw(server.port, 2), Raw(redis_port, 2)
    for line in SETUP + LINES:
        mine, real = ours.ask(*line), theirs.ask(*line)
        assert shown(mine) == shown(real), line
    ours.close()
    theirs.close()


# Clients


def test_the_lock_of_redis_py(client: Any) -> None:
    lock = client.lock("resource", timeout=10)
    assert lock.acquire(blocking=False)
    assert not client.lock("resource", timeout=10).acquire(blocking=False)
    assert lock.extend(20) and lock.reacquire() and lock.owned()
    lock.release()
    assert client.get("resource") is None
    with pytest.raises(redis.exceptions.LockError):
        lock.release()
    assert lock.acquire(blocking=False)
    client.set("resource", "somebody else")
    with pytest.raises(redis.exceptions.LockNotOwnedError):
        lock.release()


def test_a_registered_script_is_loaded_again(client: Any) -> None:
    add = client.register_script("return redis.call('INCRBY', KEYS[1], ARGV[1])")
    assert (add(["count"], [5]), add(["count"], [2])) == (5, 7)
    client.script_flush()
    assert add(["count"], [1]) == 8
    assert client.script_exists(add.sha) == [True]
    pipeline = client.pipeline()
    add(["count"], [1], client=pipeline)
    assert pipeline.execute() == [9]


RATE_LIMIT = """
local now, window_ms, limit = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local count = 0
for _, at in ipairs(redis.call('HKEYS', KEYS[1])) do
  local ms = tonumber(at:match('^(%d+)-'))
  if ms <= now - window_ms then redis.call('HDEL', KEYS[1], at) else count = count + 1 end
end
if count >= limit then return {0, count} end
redis.call('HSET', KEYS[1], now .. '-' .. ARGV[4], 1)
redis.call('PEXPIRE', KEYS[1], window_ms)
return {1, count + 1}
"""


def test_a_rate_limiter_with_a_sliding_window(client: Any) -> None:
    limit = client.register_script(RATE_LIMIT)
    replies = [limit(["calls"], [now, 100, 3, now]) for now in (0, 10, 20, 30, 99, 100, 101, 115)]
    assert replies == [[1, 1], [1, 2], [1, 3], [0, 3], [0, 3], [1, 3], [0, 3], [1, 3]]


def test_scripts_of_many_clients_are_atomic(server: ServerThread, client: Any) -> None:
    def add() -> None:
        with server.client() as own:
            for _ in range(50):
                own.eval("local n = redis.call('GET', 'n') or 0 redis.call('SET', 'n', n + 1)", 0)

    threads = [threading.Thread(target=add) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert client.get("n") == b"200"


def test_read_only_scripts_run_at_followers(server: ServerThread, client: Any) -> None:
    client.set("s", "abc")
    client.wait(1, 5000)
    with server.client(1) as follower:
        assert follower.eval_ro("return redis.call('GET', KEYS[1])", 1, "s") == b"abc"
        with pytest.raises(redis.exceptions.ReadOnlyError):
            follower.eval("return 1", 0)


def test_a_script_runs_once_with_an_id(client: Any) -> None:
    line = ("REPL.ONCE", "script-1", "EVAL", "return redis.call('INCR', KEYS[1])", 1, "n")
    assert (client.execute_command(*line), client.execute_command(*line), client.get("n")) == (1, 1, b"1")


def test_read_only_scripts_in_a_transaction_of_reads(client: Any) -> None:
    client.set("s", "abc")
    pipeline = client.pipeline()
    pipeline.eval_ro("return redis.call('GET', 's')", 0)
    pipeline.get("s")
    assert pipeline.execute() == [b"abc", b"abc"]


def test_an_expired_key_is_gone_for_a_script(client: Any) -> None:
    client.set("s", "abc", px=1)
    threading.Event().wait(0.01)
    assert client.eval("return redis.call('EXISTS', 's')", 0) == 0
    client.set("s", "abc", px=1)
    threading.Event().wait(0.01)
    assert client.eval_ro("return redis.call('GET', 's')", 0) is None


def test_the_version_is_that_of_info(client: Any) -> None:
    assert client.eval("return redis.REDIS_VERSION", 0) == REDIS_VERSION
    major, minor, patch = map(int, REDIS_VERSION.split(b"."))
    assert client.eval("return redis.REDIS_VERSION_NUM", 0) == major << 16 | minor << 8 | patch


# Without a server


class Store:
    def __init__(self) -> None:
        self.entries = MemoryEntries()
        self.programs = Programs()

    def eval(self, script: str, *values: bytes, tape: Recorder | Player | None = None) -> Reply:
        transaction = Transaction(self.entries)
        keyspace = WritableKeyspace(transaction, NOW_MS, self.programs, tape)
        args = [b"eval", script.encode(), b"0", *values]
        reply: Reply = look_up(args).handler(keyspace, args)
        self.entries.apply(transaction)
        return reply


def test_a_command_that_fails_in_a_script_changes_nothing() -> None:
    store = Store()
    too_large = "string.rep('x', 600000)"
    script = f"redis.pcall('mset', 'a', 1, 'b', {too_large}) return redis.call('exists', 'a', 'b')"
    assert store.eval(script) == 0


def test_an_error_keeps_what_was_done_before() -> None:
    store = Store()
    reply = store.eval("redis.call('set', 'a', 1) redis.call('hset', 'a', 'f', 1)")
    assert isinstance(reply, Error) and reply.text.startswith("WRONGTYPE ")
    assert store.eval("return redis.call('get', 'a')") == b"1"


def test_the_time_comes_from_the_tape() -> None:
    tape = Recorder()
    script = "return {redis.call('time'), redis.call('time'), math.random(1000)}"
    reply = Store().eval(script, tape=tape)
    assert len(tape.calls) == 1 and isinstance(reply, list) and reply[0] == reply[1]
    assert Store().eval(script, tape=Player(tape.calls)) == reply
    other = [Call("time", 1_700_000_000_123_456)]
    assert Store().eval("return redis.call('time')", tape=Player(other)) == [b"1700000000", b"123456"]


DETERMINISTIC = """
local t = {}
for i = 1, 500 do t['key' .. (i * 7919 % 1000)] = i end
for i = 1, 100 do t['key' .. i] = nil end
local order = {tostring(t), tostring(print == nil), math.random(1000000)}
for key in pairs(t) do order[#order + 1] = key end
return table.concat(order, ' ')
"""


def test_a_script_has_the_same_result_whatever_ran_before() -> None:
    script = DETERMINISTIC.replace("tostring(print == nil)", "tostring({})")
    first = Store().eval(script)
    store = Store()
    for i in range(20):
        store.eval(f"local t = {{}} for i = 1, {i * 50} do t['x' .. i] = {{tostring({{}})}} end math.random() return t")
    assert store.eval(script) == first


def test_nothing_of_a_script_is_left_for_the_next() -> None:
    store = Store()
    store.eval("cjson.encode_max_depth(1) cjson.encode_number_precision(3) math.randomseed(5)")
    assert store.eval("return cjson.encode({{{1.23456}}})") == b"[[[1.23456]]]"
    store.eval("return ARGV", b"secret")
    assert store.eval("return #ARGV") == 0


def test_a_read_only_script_sees_one_view() -> None:
    entries = MemoryEntries()
    entries.run("set s abc")
    args = [b"eval_ro", b"return redis.call('get', KEYS[1])", b"1", b"s"]
    assert look_up(args).handler(Keyspace(entries, NOW_MS), args) == b"abc"


def test_the_cache_keeps_the_scripts_used_last() -> None:
    cache = ScriptCache(count=3)
    shas = [cache.load(b"return %d" % n).sha for n in range(3)]
    cache.find(shas[0])
    cache.load(b"return 3")
    assert [cache.find(sha) is not None for sha in shas] == [True, False, True]
    small = ScriptCache(size=1000)
    for n in range(50):
        small.load(b"return %d" % n)
    assert 1 <= len(small) < 10
    with pytest.raises(BadRequest, match="too large"):
        cache.load(b"-" * 100_000)
