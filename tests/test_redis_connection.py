"""What a connection waits for (`server.redis.waiting`), what resumes it, and the order of its replies."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any, cast

import pytest

from replicator.address import Address
from replicator.errors import NoReplicas, Stale
from replicator.node.replica import RowListener
from replicator.node.writes import Done
from replicator.position import BEFORE_LOG, Offset
from replicator.protocol.levels import Level
from replicator.server.backend import Backend
from replicator.server.redis.connection import Connection
from replicator.server.redis.replies import Replies
from replicator.server.redis.server import RedisServer
from replicator.server.redis.turns import Turns
from replicator.server.redis.waiting import Closed
from replicator.server.stats import Stats
from replicator.store.view import BlockingView, Transaction, View
from tests.builds import needs_interpreted

LOOP_ITERATIONS = 10  # more than any step takes


class Entries:
    """A view of a dict."""

    def __init__(self) -> None:
        self.values: dict[bytes, bytes] = {}

    def get(self, key: bytes) -> bytes | None:
        return self.values.get(key)

    def scan(self, start: bytes, stop: bytes, *, reverse: bool = False) -> Iterator[tuple[bytes, bytes]]:
        found = [(key, value) for key, value in self.values.items() if start <= key < stop]
        return iter(sorted(found, reverse=reverse))

    def rows(self, table: str) -> int:
        return len(self.values)

    @contextmanager
    def snapshot(self) -> Iterator[View]:
        copy = Entries()
        copy.values = self.values.copy()
        yield copy


class FakeReads:
    """Reads that are answered when the test says so."""

    def __init__(self) -> None:
        self.entries = Entries()
        self.blocked: list[bytes] = []
        self.caught_up = True  # else reads wait for `log_end`
        self.asked = 0  # for views
        loop = asyncio.get_running_loop()
        self.log_end: asyncio.Future[View] = loop.create_future()
        self.answered: asyncio.Future[None] = loop.create_future()  # reads by `read`
        self.current = BlockingView(self.entries, lambda: self.blocked, lambda key: True, self._unblocked)

    def view(self, level: Level | None) -> View | asyncio.Future[View]:
        self.asked += 1
        return self.current if self.caught_up else self.log_end

    async def read(self, level: Level | None, answer: Callable[[View], Any]) -> Any:
        await self.answered
        return answer(self.entries)

    async def read_in_slices(self, level: Level | None, answer: Callable[[View], Awaitable[Any]]) -> Any:
        await self.answered
        return await answer(self.entries)

    async def _unblocked(self, key: bytes) -> View:
        raise AssertionError("a blocked read goes on by `read`")


class FakeBackend:
    """A leader whose writes are acknowledged when the test says so."""

    def __init__(self) -> None:
        self.row_listener: RowListener | None = None
        self.reads = FakeReads()
        self.unacked: list[Done] = []
        self.changing: set[bytes] = set()  # rows
        self.acked: asyncio.Future[int] = asyncio.get_running_loop().create_future()  # replicas, for WAIT

    def now_ms(self) -> int:
        return 0

    def begin(self) -> Transaction:
        return Transaction(self.reads.entries)

    logs_commands = False

    def are_changing(self, table: str, row: bytes) -> bool:
        return row in self.changing

    def submit(self, transaction: Transaction, done: Done, executed: object = None) -> None:
        for key, change in transaction.changes.items():
            assert change.new is not None
            self.reads.entries.values[key] = change.new
        self.unacked.append(done)

    async def wait_acked(self, offset: Offset, replicas: int, timeout_ms: float) -> int:
        return await self.acked

    leads = True


class FakeTransport:
    def __init__(self) -> None:
        self.writes: list[bytes] = []
        self.closed = self.aborted = False
        self.reading = True

    def get_extra_info(self, name: str) -> tuple[str, int] | None:
        return ("client", 1) if name == "peername" else None

    def write(self, data: bytes) -> None:
        self.writes.append(data)

    def is_closing(self) -> bool:
        return self.closed or self.aborted

    def close(self) -> None:
        self.closed = True

    def abort(self) -> None:
        self.aborted = True

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    def get_write_buffer_size(self) -> int:
        return 0


class Stage:
    """One connection. Steps are lines of a client (bytes) and events (text)."""

    def __init__(self, turns: Turns | None = None) -> None:
        self.backend = FakeBackend()
        self.server = RedisServer(cast(Backend, self.backend), Address("", 0), cluster="c")
        self.server.turns = turns or Turns(lambda: 0.0)  # one slice of time that never ends
        self.transport = FakeTransport()
        self.connection = Connection(self.server, 7)
        self.connection.connection_made(cast(asyncio.Transport, self.transport))

    async def step(self, step: bytes | str) -> tuple[str, str]:
        """The state afterwards, and what was written: replies separated by spaces, writes by `|`."""
        if isinstance(step, bytes):
            self.connection.data_received(step.replace(b"; ", b"\n") + b"\n")
        else:
            self._event(step)
        for _ in range(LOOP_ITERATIONS):
            await asyncio.sleep(0)
        written = "|".join(data.decode().replace("\r\n", " ").strip() for data in self.transport.writes)
        self.transport.writes.clear()
        return self.state, written

    @property
    def state(self) -> str:
        waiting = self.connection._waiting
        return "" if waiting is None else type(waiting).__name__

    def _event(self, name: str) -> None:
        backend, connection = self.backend, self.connection
        events: dict[str, Callable[[], None]] = {
            "acked": lambda: backend.unacked.pop(0)(None, Offset(1)),
            "refused": lambda: backend.unacked.pop(0)(NoReplicas("n2 is unresponsive"), BEFORE_LOG),
            "behind": lambda: setattr(backend.reads, "caught_up", False),
            "key blocked": lambda: backend.reads.blocked.append(b"kv\0k\0\1"),
            "log end": lambda: backend.reads.log_end.set_result(backend.reads.current),
            "stale": lambda: backend.reads.log_end.set_exception(Stale("too late")),
            "answered": lambda: backend.reads.answered.set_result(None),
            "broken": lambda: backend.reads.answered.set_exception(ZeroDivisionError()),
            "two replicas": lambda: backend.acked.set_result(2),
            "unread": connection.pause_writing,
            "read": connection.resume_writing,
            "closed by the server": connection.close_after_replies,
            "lost": self._lose,
            "key changing": lambda: backend.changing.add(b"k"),
            "key changed": lambda: self.server.watches.on_change("kv", b"k"),
        }
        events[name]()

    def _lose(self) -> None:
        self.transport.closed = True
        self.connection.connection_lost(None)


Steps = list[tuple[bytes | str, str, str]]
"""Step, state, written."""

GOLDEN: dict[str, Steps] = {
    "commands run at once": [
        (b"PING; GET k; GET k; ECHO x", "", "+PONG $-1 $-1 $1 x"),
    ],
    "writes do not wait for each other": [
        (b"SET k 1; INCR k; PING", "", ""),
        ("acked", "", "+OK"),
        ("acked", "", ":2 +PONG"),
    ],
    "the error of a write has its place": [
        (b"SET k 1; INCR k; INCR k; INCR x y", "", ""),
        ("acked", "", "+OK"),
        ("refused", "", "-NOREPLICAS n2 is unresponsive"),
        ("acked", "", ":3 -ERR wrong number of arguments for 'incr' command"),
    ],
    "an error that shows what is stored waits until that is confirmed": [
        (b"RENAME x y; PING", "", ""),
        ("acked", "", "-ERR no such key +PONG"),
        (b"SET k v BAD; PING", "", "-ERR syntax error +PONG"),
    ],
    "a transaction does not run over a write that was queued before its WATCH": [
        ("key changing", "", ""),
        (b"WATCH k; MULTI; SET k 1; EXEC; GET k", "", "+OK +OK +QUEUED *-1 $-1"),
        (b"MULTI; SET k 1; EXEC", "", "+OK +QUEUED"),
        ("acked", "", "*1 +OK"),
    ],
    "OwnWrites: a read runs after the writes before it": [
        (b"SET k 1; SET k 2; GET k; GET k", "OwnWrites", ""),
        ("acked", "OwnWrites", "+OK"),
        ("acked", "", "+OK $1 2 $1 2"),
    ],
    "OwnWrites: so does EXEC": [
        (b"MULTI; INCR k; GET k", "", "+OK +QUEUED +QUEUED"),
        (b"EXEC; GET k", "OwnWrites", ""),
        ("acked", "", "*2 :1 $1 1 $1 1"),
    ],
    "OwnWrites, then ViewAt": [
        ("behind", "", ""),
        (b"SET k 1; GET k; PING", "OwnWrites", ""),
        ("acked", "ViewAt", "+OK"),
        ("log end", "", "$1 1 +PONG"),
    ],
    "ViewAt": [
        ("behind", "", ""),
        (b"GET k; PING", "ViewAt", ""),
        (b"PING", "ViewAt", ""),
        ("log end", "", "$-1 +PONG +PONG"),
    ],
    "ViewAt: an error": [
        ("behind", "", ""),
        (b"GET k; PING", "ViewAt", ""),
        ("stale", "", "-STALE too late +PONG"),
    ],
    "ViewAt, then Work": [
        ("behind", "", ""),
        ("key blocked", "", ""),
        (b"GET k; PING", "ViewAt", ""),
        ("log end", "Work", ""),
        ("answered", "", "$-1 +PONG"),
    ],
    "Work: a read of a key that is blocked": [
        ("key blocked", "", ""),
        (b"GET x; GET k; PING", "Work", "$-1"),
        ("answered", "", "$-1 +PONG"),
    ],
    "Work: WAIT": [
        (b"WAIT 2 0; PING", "Work", ""),
        ("two replicas", "", ":2 +PONG"),
    ],
    "OwnWrites, then Work": [
        (b"SET k 1; WAIT 2 0; PING", "OwnWrites", ""),
        ("acked", "Work", "+OK"),
        ("two replicas", "", ":2 +PONG"),
    ],
    "Work: a transaction that only reads": [
        (b"MULTI; GET k; EXEC; PING", "Work", "+OK +QUEUED"),
        ("answered", "", "*1 $-1 +PONG"),
    ],
    "Work: a transaction whose key changes meanwhile": [
        (b"WATCH k; MULTI; GET k; EXEC; PING", "Work", "+OK +OK +QUEUED"),
        ("key changed", "Work", ""),
        ("answered", "", "*-1 +PONG"),
    ],
    "Work: an error of ours is the reply": [
        ("key blocked", "", ""),
        (b"GET k; PING", "Work", ""),
        (
            "broken",
            "",
            "-ERR internal error in GET (ZeroDivisionError), it had no effect: see the log of the node +PONG",
        ),
    ],
    "Closing: QUIT": [
        (b"SET k 1; QUIT; PING", "Closing", ""),
        ("acked", "Closed", "+OK +OK"),
    ],
    "Closing: nothing is pending": [
        (b"PING; QUIT; PING", "Closed", "+PONG +OK"),
    ],
    "Closing: bytes that are not RESP": [
        (b"SET k 1; GET 'k; PING", "Closing", ""),
        ("acked", "Closed", "+OK -ERR Protocol error: unbalanced quotes in request"),
    ],
    "Closing: a connection can kill itself": [
        (b"SET k 1; CLIENT KILL ID 7; PING", "Closing", ""),
        ("acked", "Closed", "+OK :1"),
    ],
    "OwnWrites, then Closing": [
        (b"SET k 1; GET k", "OwnWrites", ""),
        ("closed by the server", "Closing", ""),
        ("acked", "Closed", "+OK"),
    ],
    "ViewAt, then Closed": [
        ("behind", "", ""),
        (b"GET k", "ViewAt", ""),
        ("closed by the server", "Closed", ""),
        ("log end", "Closed", ""),
    ],
    "Work, then Closed": [
        (b"WAIT 2 0", "Work", ""),
        ("closed by the server", "Closed", ""),
    ],
    "Closed: the client is gone while its write is pending": [
        (b"SET k 1; GET k", "OwnWrites", ""),
        ("lost", "Closed", ""),
        ("acked", "Closed", ""),
        ("closed by the server", "Closed", ""),
    ],
    "Closed: the client is gone while its read waits": [
        ("behind", "", ""),
        (b"GET k", "ViewAt", ""),
        ("lost", "Closed", ""),
        ("stale", "Closed", ""),
    ],
    "a client that does not read": [
        (b"SET k 1; GET k", "OwnWrites", ""),
        ("unread", "OwnWrites", ""),
        ("acked", "", "+OK $1 1"),
        (b"PING; GET k", "", ""),
        ("read", "", "+PONG $1 1"),
    ],
}


@pytest.mark.parametrize("steps", GOLDEN.values(), ids=GOLDEN)
async def test_states_and_replies(steps: Steps) -> None:
    stage = Stage()
    for step, state, written in steps:
        assert await stage.step(step) == (state, written), step
    assert stage.transport.is_closing() == isinstance(stage.connection._waiting, Closed)


async def test_a_reply_that_is_ready_waits_for_those_before_it() -> None:
    transport = FakeTransport()
    replies = Replies(Stats(), lambda now_s: replies.flush(), lambda: 0.0)
    replies.transport = cast(asyncio.Transport, transport)
    first, second = replies.add_pending(b"1"), replies.add_pending(b"2")
    replies.add(b"3")
    second(None, Offset(2))
    await asyncio.sleep(0)
    assert transport.writes == []
    first(None, Offset(1))
    await asyncio.sleep(0)
    assert transport.writes == [b"123"]
    assert not replies.pending


async def test_reads_that_arrive_together_wait_for_one_view() -> None:
    stage = Stage()
    await stage.step("behind")
    await stage.step(b"GET k; GET x; GET k")
    assert await stage.step("log end") == ("", "$-1 $-1 $-1")
    assert stage.backend.reads.asked == 1


@pytest.mark.parametrize("line", [b"GET k", b"*2\r\n$3\r\nGET\r\n$1\r\nk\r"])
async def test_a_read_that_arrives_after_a_view_was_asked_for_asks_for_another(line: bytes) -> None:
    stage = Stage()
    await stage.step("behind")
    for _ in range(3):
        await stage.step(line)
    assert stage.backend.reads.asked == 1
    assert await stage.step("log end") == ("", "$-1|$-1 $-1")  # the last two share one
    assert stage.backend.reads.asked == 2


async def test_a_read_of_another_level_asks_for_another_view() -> None:
    stage = Stage()
    await stage.step("behind")
    await stage.step(b"GET k; REPL.READ EVENTUAL GET k; GET k")
    await stage.step("log end")
    assert stage.backend.reads.asked == 3


@needs_interpreted
async def test_an_error_after_which_a_reply_may_be_missing_closes_the_connection(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    stage = Stage()
    monkeypatch.setattr(stage.connection._dispatcher, "_submit", lambda *_: 1 / 0)
    assert await stage.step(b"PING; SET k 1; PING") == ("Closed", "")
    assert "ZeroDivisionError" in caplog.text
