"""The sink that posts to an HTTP endpoint, on a real server with faults."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from replicator.stream.change import Op
from replicator.stream.json_envelope import JsonFormat
from replicator.stream.sinks import http
from replicator.stream.sinks.http import HttpSink
from replicator.stream.sinks.port import SinkFailed, SinkUnavailable
from tests.keyspace_fixture import NOW_MS
from tests.sink_contract import SinkContract, SinkTarget
from tests.sink_fixture import Recorder, change, plain_changes, position
from tests.test_sink_files import strings_of

Answer = Callable[[list[dict[str, Any]]], web.Response | None]


@dataclass
class Endpoint:
    """Keeps what it accepts. `answers` are for the next requests; `judge` for those after."""

    url: str = ""
    accepted: list[dict[str, Any]] = field(default_factory=list)
    requests: list[tuple[str, int]] = field(default_factory=list)  # the idempotency key, and the number of changes
    headers: list[dict[str, str]] = field(default_factory=list)
    answers: list[web.Response | None] = field(default_factory=list)  # None: close the connection without an answer
    judge: Answer = lambda changes: web.Response()

    async def handle(self, request: web.Request) -> web.Response:
        changes = await request.json()
        self.requests.append((request.headers["Idempotency-Key"], len(changes)))
        self.headers.append(dict(request.headers))
        answer = self.answers.pop(0) if self.answers else self.judge(changes)
        if answer is None:
            assert request.transport is not None
            request.transport.close()
            return web.Response()
        if answer.status == 200:
            self.accepted += changes
        return answer


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    """In a thread of its own, as sinks block."""
    endpoint, started, loop = Endpoint(), threading.Event(), asyncio.new_event_loop()

    async def start() -> web.AppRunner:
        app = web.Application(client_max_size=64 << 20)
        app.router.add_post("/changes", endpoint.handle)
        runner = web.AppRunner(app)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        host, port = runner.addresses[0][:2]
        endpoint.url = f"http://{host}:{port}/changes?topic=a"
        return runner

    def serve() -> None:
        runner = loop.run_until_complete(start())
        started.set()
        loop.run_forever()
        loop.run_until_complete(runner.cleanup())
        loop.close()

    thread = threading.Thread(target=serve)
    thread.start()
    assert started.wait(30)
    yield endpoint
    loop.call_soon_threadsafe(loop.stop)
    thread.join()


@dataclass
class HttpTarget:
    endpoint: Endpoint
    folder: Path

    def sink(self, authorization: str = "", *, dead_letters: bool = False) -> HttpSink:
        letters = self.folder / "dead.jsonl" if dead_letters else None
        return HttpSink(
            self.endpoint.url, self.folder / "sink.checkpoint", letters, authorization, lambda: NOW_MS / 1000
        )

    def strings(self) -> dict[bytes, bytes]:
        return strings_of([JsonFormat().decode(json.dumps(it).encode()) for it in self.endpoint.accepted])

    def dead(self) -> list[tuple[int, str, str]]:
        lines = (self.folder / "dead.jsonl").read_text().splitlines()
        return [(it["status"], it["reason"], it["change"]["after"]["row"]) for it in map(json.loads, lines)]


@pytest.fixture
def target(endpoint: Endpoint, tmp_path: Path) -> HttpTarget:
    return HttpTarget(endpoint, tmp_path)


class TestContract(SinkContract):
    @pytest.fixture
    def target(self, endpoint: Endpoint, tmp_path: Path) -> SinkTarget:
        return HttpTarget(endpoint, tmp_path)


def opened(sink: HttpSink) -> HttpSink:
    sink.open()
    return sink


class TestRequests:
    def test_a_request_has_a_key_of_its_changes(self, target: HttpTarget) -> None:
        sink = opened(target.sink("Bearer abc"))
        sink.write(plain_changes(3), position(3))
        sink.close()
        timeline = bytes(range(16)).hex()
        assert target.endpoint.requests == [(f'"shop/{timeline}/1-0/3-0/3"', 3)]
        headers = target.endpoint.headers[0]
        assert headers["Authorization"] == "Bearer abc" and headers["Content-Type"] == "application/json"

    def test_the_content_of_a_snapshot_has_another_key_than_changes_at_the_same_position(
        self, target: HttpTarget
    ) -> None:
        sink, changes = opened(target.sink()), plain_changes(1)
        sink.write([changes[0]._replace(op=Op.READ)], position(1))
        sink.write(changes, position(2))
        sink.close()
        timeline = bytes(range(16)).hex()
        keys = [key for key, _ in target.endpoint.requests]
        assert keys == [f'"shop/{timeline}/r1-0/r1-0/1"', f'"shop/{timeline}/1-0/1-0/1"']

    def test_a_batch_is_divided_into_requests(self, target: HttpTarget, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(http, "SINK_REQUEST_CHANGES", 4)
        sink, changes = opened(target.sink()), plain_changes(10)
        sink.write(changes, position(10))
        assert [count for _, count in target.endpoint.requests] == [4, 4, 2]
        monkeypatch.setattr(http, "SINK_REQUEST_BYTES", 10)
        sink.write(changes[:2], position(12))
        assert [count for _, count in target.endpoint.requests[3:]] == [1, 1]
        sink.close()

    def test_no_changes_are_no_request(self, target: HttpTarget) -> None:
        sink = opened(target.sink())
        sink.write([], position(5))
        sink.close()
        assert target.endpoint.requests == [] and target.sink().open() == position(5)


class TestFaults:
    @pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503])
    def test_errors_that_pass_are_tried_again_with_the_same_key(self, target: HttpTarget, status: int) -> None:
        target.endpoint.answers = [web.Response(status=status, text="come\nback")]
        sink, changes = opened(target.sink()), plain_changes(2)
        with pytest.raises(SinkUnavailable, match=f"answers {status}: come back") as failure:
            sink.write(changes, position(2))
        assert failure.value.retry_after_s == 0 and sink.open() is None
        sink.write(changes, position(2))
        sink.close()
        first, second = target.endpoint.requests
        assert first == second and len(target.endpoint.accepted) == 2

    def test_requests_that_were_accepted_are_not_repeated(
        self, target: HttpTarget, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(http, "SINK_REQUEST_CHANGES", 2)
        target.endpoint.answers = [web.Response(), web.Response(status=503)]
        sink, changes = opened(target.sink()), plain_changes(6)
        with pytest.raises(SinkUnavailable):
            sink.write(changes, position(6))
        sink.open()
        sink.write(changes, position(6))
        sink.close()
        assert [it["source"]["offset"] for it in target.endpoint.accepted] == [1, 2, 3, 4, 5, 6]

    @pytest.mark.parametrize(
        ("header", "seconds"),
        [
            ("7", 7.0),
            ("Fri, 15 Jan 2027 08:00:30 GMT", 30.0),
            ("Thu, 14 Jan 2027 08:00:00 GMT", 0.0),
            ("soon", 0.0),
            ("1e9", http.MAX_RETRY_AFTER_S),
            ("nan", 0.0),
            ("-3", 0.0),
        ],
    )
    def test_retry_after_is_honoured(self, target: HttpTarget, header: str, seconds: float) -> None:
        target.endpoint.answers = [web.Response(status=429, headers={"Retry-After": header})]
        sink = opened(target.sink())
        with pytest.raises(SinkUnavailable) as failure:
            sink.write(plain_changes(1), position(1))
        sink.close()
        assert failure.value.retry_after_s == seconds

    def test_a_connection_that_was_closed_while_idle_is_opened_again(self, target: HttpTarget) -> None:
        sink, changes = opened(target.sink()), plain_changes(2)
        sink.write(changes[:1], position(1))
        target.endpoint.answers = [None]
        sink.write(changes[1:], position(2))
        sink.close()
        assert target.strings() == {b"key:0": b"value 0", b"key:1": b"value 1"}

    def test_a_new_connection_that_is_closed_is_a_failure(self, target: HttpTarget) -> None:
        target.endpoint.answers = [None]
        sink = opened(target.sink())
        with pytest.raises(SinkUnavailable, match="does not answer"):
            sink.write(plain_changes(1), position(1))
        sink.close()

    def test_an_endpoint_that_is_away(self, tmp_path: Path) -> None:
        sink = opened(HttpSink("http://127.0.0.1:1/", tmp_path / "a"))
        with pytest.raises(SinkUnavailable, match=r"http://127\.0\.0\.1:1/ does not answer: Connection refused"):
            sink.write(plain_changes(1), position(1))

    @pytest.mark.parametrize("status", [401, 403, 404, 405])
    def test_a_wrong_url_or_login_is_an_error(self, target: HttpTarget, status: int) -> None:
        target.endpoint.answers = [web.Response(status=status)]
        sink = opened(target.sink(dead_letters=True))
        with pytest.raises(SinkFailed, match=r"correct the URL, or REPLICATOR_SINK_AUTHORIZATION"):
            sink.write(plain_changes(2), position(2))
        sink.close()
        assert target.dead() == []

    def test_redirections_are_not_followed(self, target: HttpTarget) -> None:
        target.endpoint.answers = [web.Response(status=302, headers={"Location": "/elsewhere"})]
        with pytest.raises(SinkFailed, match="redirections are not followed"):
            opened(target.sink()).write(plain_changes(1), position(1))

    def test_a_large_reply_is_not_read_to_its_end(self, target: HttpTarget) -> None:
        target.endpoint.judge = lambda changes: web.Response(body=bytes(1 << 20))
        sink, changes = opened(target.sink()), plain_changes(2)
        sink.write(changes[:1], position(1))
        sink.write(changes[1:], position(2))
        sink.close()
        assert len(target.endpoint.accepted) == 2


class TestDeadLetters:
    @staticmethod
    def refuse_bad(changes: list[dict[str, Any]]) -> web.Response:
        bad = [it for it in changes if it["after"]["value"] == "bad"]
        return web.Response(status=422, text="bad value") if bad else web.Response()

    def test_only_what_is_refused_is_a_dead_letter(self, target: HttpTarget) -> None:
        target.endpoint.judge = self.refuse_bad
        recorder = Recorder()
        for number in range(20):
            recorder.run(f"SET key{number} {'bad' if number in (3, 4, 17) else 'good'}")
        sink = opened(target.sink(dead_letters=True))
        sink.write(recorder.changes, position(20))
        sink.close()
        assert target.dead() == [(422, "bad value", f"key{number}") for number in (3, 4, 17)]
        assert [it["source"]["offset"] for it in target.endpoint.accepted] == [
            number for number in range(1, 21) if number not in (4, 5, 18)
        ]
        assert target.sink().open() == position(20)

    def test_without_a_file_for_them_the_sink_stops(self, target: HttpTarget) -> None:
        target.endpoint.judge = self.refuse_bad
        sink = opened(target.sink())
        with pytest.raises(SinkFailed, match=r"answers 422: bad value: --dead-letters PATH keeps the changes"):
            sink.write([change(b"a", b"bad")], position(1))
        assert sink.open() is None
        sink.close()

    def test_a_file_that_cannot_be_written_is_reported_at_the_start(self, target: HttpTarget, tmp_path: Path) -> None:
        sink = HttpSink(target.endpoint.url, tmp_path / "a", tmp_path / "missing" / "dead.jsonl")
        with pytest.raises(Exception, match=r"dead\.jsonl cannot be written \(No such file or directory\)"):
            sink.open()
