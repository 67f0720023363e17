"""The server with redis-py, redis-cli and redis-benchmark, and with input that none of them would send."""

from __future__ import annotations

import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
import redis

from replicator.limits import MAX_REQUEST_BYTES
from tests.redis_fixture import ServerThread

WAIT_S = 20


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.002)


def raw(server: ServerThread) -> socket.socket:
    return socket.create_connection(("127.0.0.1", server.port), timeout=WAIT_S)


def read_all(connection: socket.socket) -> bytes:
    """Until the server closes."""
    parts = []
    while data := connection.recv(1 << 16):
        parts.append(data)
    return b"".join(parts)


def exchange(server: ServerThread, data: bytes, reply: bytes) -> None:
    with raw(server) as connection:
        connection.sendall(data)
        got = b""
        while len(got) < len(reply):
            got += connection.recv(1 << 16)
        assert got == reply


@pytest.mark.parametrize("protocol", [2, 3])
def test_redis_py(server: ServerThread, protocol: int) -> None:
    client = server.client(protocol=protocol, decode_responses=True, client_name="test")
    client.flushall()
    assert client.set("a", "1", ex=100, get=True) is None
    assert 95 < client.ttl("a") <= 100
    assert client.hset("h", mapping={"x": "1", "y": "2"}) == 2
    assert client.hgetall("h") == {"x": "1", "y": "2"}
    assert sorted(client.scan_iter(count=1)) == ["a", "h"]
    assert dict(client.hscan_iter("h", count=1)) == {"x": "1", "y": "2"}
    assert client.dbsize() == 2
    with client.pipeline() as pipe:
        assert pipe.incr("n").incr("n").get("n").execute() == [1, 2, "2"]
    assert client.info("replication")["role"] == "master"
    assert client.config_get("maxclients") == {"maxclients": "10000"}
    assert client.command_count() > 70
    assert client.command_getkeys("MSET", "a", "1", "b", "2") == ["a", "b"]
    assert client.client_getname() == "test"
    assert client.role()[0] == "master"
    client.close()


def test_exec_fails_if_a_watched_key_was_changed(client: Any, server: ServerThread) -> None:
    other = server.client()
    with client.pipeline() as pipe:
        pipe.watch("a")
        other.set("a", "theirs")
        pipe.multi()
        pipe.set("a", "ours")
        with pytest.raises(redis.WatchError):
            pipe.execute()
    assert client.get("a") == b"theirs"
    with client.pipeline() as pipe:
        pipe.watch("a")
        pipe.multi()
        pipe.set("a", "ours")
        assert pipe.execute() == [True]
    other.close()


def test_many_clients_count_without_losing_one(server: ServerThread, client: Any) -> None:
    def count() -> None:
        own = server.client()
        for _ in range(100):
            with own.pipeline() as pipe:
                while True:
                    try:
                        pipe.watch("optimistic")
                        number = int(pipe.get("optimistic") or 0)
                        pipe.multi()
                        pipe.set("optimistic", number + 1)
                        pipe.incr("direct")
                        pipe.execute()
                        break
                    except redis.WatchError:
                        continue
        own.close()

    threads = [threading.Thread(target=count) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert client.get("optimistic") == client.get("direct") == b"400"


def test_a_failed_command_leaves_no_half_of_itself_in_a_transaction(client: Any) -> None:
    client.set("s", "1")
    with client.pipeline() as pipe:
        pipe.set("a", "1").hset("s", "f", "1").set("b", "2")
        replies = pipe.execute(raise_on_error=False)
    assert replies[0] is True and replies[2] is True
    assert isinstance(replies[1], redis.ResponseError)
    assert client.mget("a", "b", "s") == [b"1", b"2", b"1"]


def test_the_keyspace_in_info_counts_the_keys_that_expire(client: Any) -> None:
    def expires() -> int:
        return int(client.info("keyspace")["db0"]["expires"])

    client.set("forever", "1")
    assert expires() == 0
    client.set("a", "1", ex=100)
    client.hset("h", mapping={"x": "1", "y": "2"})
    client.expire("h", 100)
    client.execute_command("REPL.ONCE", "an-id", "SET", "once", "1", "EX", "100")  # its id expires, too
    assert expires() == 3
    client.persist("h")
    client.expire("a", 200)
    client.delete("once")
    assert expires() == 1


def test_expired_keys_are_gone_and_their_fields_with_them(client: Any, server: ServerThread) -> None:
    client.hset("h", mapping={"a": "1", "b": "2"})
    client.pexpire("h", 30)
    wait_for(lambda: not client.exists("h"))
    client.hset("h", "c", "3")
    assert client.hgetall("h") == {b"c": b"3"}
    follower = server.client(1)
    client.set("soon", "1", px=20)
    wait_for(lambda: client.get("soon") is None)
    assert client.wait(1, 5000) == 1
    wait_for(lambda: follower.get("soon") is None)
    assert follower.dbsize() == client.dbsize() == 1
    follower.close()


def test_followers_answer_reads_and_refuse_writes(client: Any, server: ServerThread) -> None:
    client.set("a", "1")
    assert client.wait(1, 5000) == 1
    follower = server.client(1)
    assert follower.get("a") == b"1"
    with pytest.raises(redis.ReadOnlyError):
        follower.set("a", "2")
    with pytest.raises(redis.ReadOnlyError), follower.pipeline() as pipe:
        pipe.set("a", "2")
        pipe.execute()
    assert follower.role()[0] == b"slave"
    assert follower.info("replication")["role"] == "slave"
    follower.close()


def test_flushall_deletes_more_than_one_record_could_hold(client: Any) -> None:
    with client.pipeline(transaction=False) as pipe:
        for number in range(12_000):
            pipe.set(f"key:{number}", "x" * 200)
        pipe.execute()
    assert client.dbsize() == 12_000
    client.flushall()
    assert client.dbsize() == 0


def test_scan_sees_every_key_that_is_there_all_the_time(client: Any) -> None:
    stays = {f"stays:{number}".encode() for number in range(500)}
    client.mset(dict.fromkeys(stays, "1"))
    seen = set()
    for index, key in enumerate(client.scan_iter(count=7)):
        seen.add(key)
        client.set(f"new:{index}", "1")
        client.delete(f"new:{index - 5}")
    assert stays <= seen


def test_exceeded_limits_are_reported_and_change_nothing(client: Any) -> None:
    client.set("a", "1")
    with pytest.raises(redis.ResponseError, match="key too long"):
        client.set("k" * 509, "1")
    with pytest.raises(redis.ResponseError, match="too large"):
        client.set("a", b"x" * (512 * 1024 + 1))
    with pytest.raises(redis.ResponseError, match="split it"):
        client.mset({f"k{number}": b"x" * 500_000 for number in range(10)})
    assert client.set("k" * 506, b"\xff\x00" * 1000)
    assert client.get("k" * 506) == b"\xff\x00" * 1000
    assert client.get("a") == b"1"


def test_a_request_in_pieces_waits_for_its_rest(server: ServerThread) -> None:
    with raw(server) as connection:
        for piece in (b"*2\r", b"\n$4\r\nEC", b"HO\r\n$2\r\nh", b"i\r\n"):
            connection.sendall(piece)
        assert connection.recv(100) == b"$2\r\nhi\r\n"


def test_inline_commands(server: ServerThread) -> None:
    exchange(server, b"PING\r\n", b"+PONG\r\n")
    exchange(server, b'\r\nECHO "a b"\nPING\n*1\r\n$4\r\nPING\r\n', b"$3\r\na b\r\n+PONG\r\n+PONG\r\n")


@pytest.mark.parametrize(
    "garbage",
    [
        b"*1\r\n:5\r\n",
        b"+OK\r\n",
        b"*1\r\n*1\r\n$4\r\nPING\r\n",
        b"*x\r\n",
        b"*1\r\n$-5\r\nx",
        b'PING "\r\n',
        b"\x00" * 1_000_000,
    ],
)
def test_garbage_is_reported_and_the_connection_closed(server: ServerThread, garbage: bytes) -> None:
    with raw(server) as connection:
        try:
            connection.sendall(garbage)
            reply = read_all(connection)
        except ConnectionError:  # closed with part of the garbage unread
            reply = b"-ERR Protocol error"
    assert reply.startswith(b"-ERR Protocol error")
    exchange(server, b"PING\r\n", b"+PONG\r\n")


def test_an_endless_request_is_cut_off(server: ServerThread) -> None:
    with raw(server) as connection:
        try:
            connection.sendall(b"*2\r\n$3\r\nGET\r\n$100000000\r\n")
            for _ in range(MAX_REQUEST_BYTES // 100_000 + 20):
                connection.sendall(b"x" * 100_000)
            reply = read_all(connection)
        except ConnectionError:
            reply = b"-ERR Protocol error"
    assert reply.startswith(b"-ERR Protocol error")


def test_a_client_that_does_not_read_delays_no_other_client(server: ServerThread, client: Any) -> None:
    client.set("big", b"x" * 500_000)
    with raw(server) as deaf:
        deaf.settimeout(0.2)
        try:
            for _ in range(200_000):
                deaf.sendall(b"*2\r\n$3\r\nGET\r\n$3\r\nbig\r\n" * 50)
        except TimeoutError:
            pass  # the server has stopped reading from it
        else:
            pytest.fail("the server took everything")
        assert client.get("big") == b"x" * 500_000


def test_a_thousand_connections(server: ServerThread) -> None:
    connections = [raw(server) for _ in range(1000)]
    for connection in connections:
        connection.sendall(b"PING\r\n")
    for connection in connections:
        assert connection.recv(100) == b"+PONG\r\n"
        connection.close()


def test_connections_above_the_limit_are_refused(serve: Callable[..., ServerThread]) -> None:
    server = serve(max_clients=2)
    first, second = raw(server), raw(server)
    for connection in (first, second):
        connection.sendall(b"PING\r\n")
        assert connection.recv(100) == b"+PONG\r\n"
    with raw(server) as third:
        assert read_all(third) == b"-ERR max number of clients reached\r\n"
    first.close()
    wait_for(lambda: _answers(server))
    second.close()


def _answers(server: ServerThread) -> bool:
    with raw(server) as connection:
        try:
            connection.sendall(b"PING\r\n")
            return connection.recv(100) == b"+PONG\r\n"
        except ConnectionError:
            return False


def test_a_password(serve: Callable[..., ServerThread]) -> None:
    server = serve(password="sesame")
    with pytest.raises(redis.AuthenticationError):
        server.client().get("a")
    with pytest.raises(redis.AuthenticationError):
        server.client(password="wrong").get("a")
    exchange(
        server,
        b"AUTH sesame\r\nGET a\r\nGET a\r\nRESET\r\nGET a\r\n",
        b"+OK\r\n$-1\r\n$-1\r\n+RESET\r\n-NOAUTH Authentication required.\r\n",
    )
    exchange(server, b"REPL.SQL nonsense\r\n", b"-NOAUTH Authentication required.\r\n")  # it was not parsed
    for protocol in (2, 3):
        assert server.client(password="sesame", protocol=protocol).set("a", "1")
        assert server.client(username="default", password="sesame", protocol=protocol).get("a") == b"1"


def test_redis_cli(server: ServerThread) -> None:
    program = shutil.which("redis-cli")
    if program is None:
        pytest.skip("redis-cli is not installed (Debian: redis-tools)")

    def ask(*args: str) -> str:
        line = [program, "-p", str(server.port), *args]
        return subprocess.run(line, capture_output=True, text=True, check=True, timeout=WAIT_S).stdout.strip()

    assert ask("set", "cli", "1") == "OK"
    assert ask("incr", "cli") == "2"
    assert ask("-3", "hset", "h", "f", "1") in "01"
    assert "role:master" in ask("info", "replication")
    assert ask("no-such") == "ERR unknown command 'no-such', with args beginning with:"
    assert "db0" in ask("info", "keyspace")


def test_redis_benchmark(server: ServerThread) -> None:
    program = shutil.which("redis-benchmark")
    if program is None:
        pytest.skip("redis-benchmark is not installed (Debian: redis-tools)")
    options = ["-p", str(server.port), "-t", "set,get,incr,hset,mset", "-n", "5000", "-c", "50", "-P", "16", "--csv"]
    done = subprocess.run([program, *options], capture_output=True, text=True, check=True, timeout=100)
    assert [line.split(",")[0] for line in done.stdout.splitlines()[1:]] == [
        '"SET"',
        '"GET"',
        '"INCR"',
        '"HSET"',
        '"MSET (10 keys)"',
    ]
    assert "error" not in (done.stdout + done.stderr).lower()
