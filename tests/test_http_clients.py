"""HTTP clients that are idle, slow or send too much: how long a connection is kept, and what is read of a request."""

from __future__ import annotations

import asyncio
import gzip
import json
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

import pytest

from replicator.limits import MAX_BODY_BYTES
from replicator.server.http import app, body
from tests.test_admin import JOINING, HttpServers, single_leader

TIMEOUT_S = 0.2
PUT = b"PUT /members HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"


@pytest.fixture
async def servers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[HttpServers]:
    for module in (app, body):
        monkeypatch.setattr(module, "HTTP_TIMEOUT_S", TIMEOUT_S)
    servers = HttpServers(tmp_path)
    yield servers
    await servers.close()


async def answer_to(servers: HttpServers, *data: bytes, pause_s: float = 0.0) -> bytes:
    """What the server sends until it closes the connection, perhaps while more is sent to it."""
    client, _ = await single_leader(servers)
    reader, writer = await asyncio.open_connection(client.http.host, client.http.port)
    sending = asyncio.create_task(_send(writer, data, pause_s))
    try:
        answer = b""
        async with asyncio.timeout(10):
            with suppress(ConnectionResetError):
                while part := await reader.read(1 << 16):
                    answer += part
        return answer
    finally:
        sending.cancel()
        writer.close()


async def _send(writer: asyncio.StreamWriter, data: tuple[bytes, ...], pause_s: float) -> None:
    for part in data:
        writer.write(part)
        await writer.drain()
        await asyncio.sleep(pause_s)


async def test_a_connection_without_a_request_is_closed(servers: HttpServers) -> None:
    assert await answer_to(servers) == b""


async def test_a_connection_without_a_further_request_is_closed(servers: HttpServers) -> None:
    answer = await answer_to(servers, b"GET /readyz HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 200")


async def test_a_server_that_stops_waits_a_short_time_for_requests(
    servers: HttpServers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(app, "STOP_TIMEOUT_S", TIMEOUT_S)
    for module in (app, body):
        monkeypatch.setattr(module, "HTTP_TIMEOUT_S", 10)
    client, _ = await single_leader(servers)
    _, writer = await asyncio.open_connection(client.http.host, client.http.port)
    writer.write(PUT + b"Content-Length: 100\r\n\r\nabc")
    await writer.drain()
    await asyncio.sleep(TIMEOUT_S)
    async with asyncio.timeout(2):
        await servers.close()
    writer.close()


async def test_a_header_that_never_ends_is_not_waited_for(servers: HttpServers) -> None:
    parts = [b"X-%d: 1\r\n" % number for number in range(100)]
    assert await answer_to(servers, b"GET / HTTP/1.1\r\n", *parts, pause_s=TIMEOUT_S / 4) == b""


@pytest.mark.parametrize(
    "header", [b"X: " + b"x" * 100_000, b"".join(b"X-%d: 1\r\n" % number for number in range(1_000))]
)
async def test_a_large_header_is_refused(servers: HttpServers, header: bytes) -> None:
    answer = await answer_to(servers, b"GET / HTTP/1.1\r\n" + header)
    assert answer.startswith((b"HTTP/1.1 400", b"HTTP/1.0 400"))


async def test_a_body_that_never_ends_is_not_waited_for(servers: HttpServers) -> None:
    head = PUT + b"Content-Length: 1000\r\n\r\n{"
    answer = await answer_to(servers, head, *[b" "] * 100, pause_s=TIMEOUT_S / 4)
    assert answer.startswith(b"HTTP/1.1 408")


@pytest.mark.parametrize("length", [b"Content-Length: 1000000000\r\n\r\n", b"Transfer-Encoding: chunked\r\n\r\n"])
async def test_a_large_body_is_refused(servers: HttpServers, length: bytes) -> None:
    chunk = b"%x\r\n" % MAX_BODY_BYTES + b" " * MAX_BODY_BYTES + b"\r\n"
    answer = await answer_to(servers, PUT + length, *[chunk] * 4)
    assert answer.startswith(b"HTTP/1.1 413")


async def test_a_body_of_an_unknown_charset_is_refused(servers: HttpServers) -> None:
    head = PUT.replace(b"application/json", b"application/json; charset=none-such")
    answer = await answer_to(servers, head + b"Connection: close\r\nContent-Length: 2\r\n\r\n{}")
    assert answer.startswith(b"HTTP/1.1 400") and b"the body is not valid JSON" in answer


async def test_a_compressed_body_is_not_expanded(servers: HttpServers) -> None:
    client, _ = await single_leader(servers)
    body = gzip.compress(json.dumps(JOINING).encode())
    headers = {"Content-Encoding": "gzip"}
    status, answer = await client.ask("PUT", "/members", data=body, headers=headers, compress=None)
    assert (status, answer["error"]) == (400, "the body is not valid JSON")
