"""docs/openapi.json and docs/http-api.md describe what nodes answer."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import AsyncIterator, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from jsonschema import Draft202012Validator

from replicator.position import NodeId
from replicator.records.types import Mode
from replicator.server.http.api import OPERATIONS, Shape
from replicator.server.keyspace import WritableKeyspace
from tests.memory_cluster import submit, until
from tests.test_admin import JOINING, PASSWORD, HttpClient, HttpServers, identity, single_leader
from tools.openapi_doc import OPENAPI, PAGE, encoded, regenerated

DOCUMENT: dict[str, Any] = json.loads(OPENAPI.read_text())
AUTHORIZED = {"Authorization": f"Bearer {PASSWORD}", "Content-Type": "application/json"}


@pytest.fixture
async def servers(tmp_path: Path) -> AsyncIterator[HttpServers]:
    servers = HttpServers(tmp_path)
    yield servers
    await servers.close()


def test_the_files_are_up_to_date() -> None:
    stale = "is stale: run `python -m tools.openapi_doc`"
    assert OPENAPI.read_text() == encoded(), f"docs/openapi.json {stale}"
    assert PAGE.read_text() == regenerated(PAGE.read_text()), f"docs/http-api.md {stale}"


async def test_each_route_is_described_and_each_description_has_a_route(servers: HttpServers) -> None:
    client = await servers.open()
    router = client.server._runner.app.router
    routes = {(it.method, it.resource.canonical) for it in router.routes() if it.method != "HEAD" and it.resource}
    assert routes == {(it.method, it.path) for it in OPERATIONS}


def closed(schema: Any) -> Any:
    """The schema without tolerance for fields that it does not describe."""
    if isinstance(schema, list):
        return [closed(it) for it in schema]
    if not isinstance(schema, dict):
        return schema
    inner = {name: closed(it) for name, it in schema.items()}
    return {"additionalProperties": False, **inner} if "properties" in schema and "type" in schema else inner


def validator(reference: Any) -> Draft202012Validator:
    return Draft202012Validator({**reference, "components": closed(DOCUMENT["components"])})


def check(method: str, path: str, status: int, answer: Any) -> None:
    """`path`: as in the document."""
    described = DOCUMENT["paths"][path][method.lower()]["responses"]
    assert str(status) in described, f"{method} {path} answered {status}, which is not described: {answer}"
    validator(described[str(status)]["content"]["application/json"]["schema"]).validate(answer)


def test_every_schema_is_valid_and_used() -> None:
    for shape in Shape:
        Draft202012Validator.check_schema(DOCUMENT["components"]["schemas"][shape])
        assert f'"#/components/schemas/{shape}"' in OPENAPI.read_text()


async def ask(client: HttpClient, method: str, path: str, described: str = "", **options: Any) -> Any:
    status, answer = await client.ask(method, path, headers=AUTHORIZED, **options)
    check(method, described or path, status, answer)
    return status, answer


PLAIN = ("/healthz", "/readyz", "/leader", "/replica", "/status", "/snapshots")


async def test_answers_of_a_starting_node_are_as_described(servers: HttpServers) -> None:
    client = await servers.open()
    for path in (*PLAIN, "/metrics"):
        await ask(client, "GET", path)
    for operation in OPERATIONS:
        if operation.is_change or operation.parameters:
            path = operation.path.replace("{node}", "n9").replace("{key}", "k").replace("{id}", "a")
            status, _ = await ask(client, operation.method, path, operation.path, json=body_of(operation.body))
            assert status == 503


async def test_answers_of_a_leader_and_a_follower_are_as_described(servers: HttpServers) -> None:
    client, leader = await single_leader(servers, PASSWORD)
    transaction = leader.node.begin()
    keys = WritableKeyspace(transaction, now_ms=0)
    keys.put_string(b"greeting", b"hello")
    keys.put_fields(b"h", {b"\xff": b"1"})
    await submit(leader.node, transaction)
    running = await servers.cluster.start("n2", priority=1)
    follower = await servers.open(running, PASSWORD, identity("n2", 2))
    leader.node.membership_changes.add_member(running.member)
    await until(lambda: running.node.membership.get(NodeId("n2")) is not None)
    await servers.cluster.caught_up()
    for server in (client, follower):
        for path in PLAIN:
            await ask(server, "GET", path)
        assert (await ask(server, "POST", "/snapshots"))[0] == 201
        assert (await ask(server, "GET", "/snapshots"))[1]["snapshots"]
        for key, expected in (("greeting", 200), ("h", 200), ("none", 404), ("none?level=bogus", 400)):
            assert (await ask(server, "GET", f"/keys/{key}", "/keys/{key}"))[0] == expected
    assert (await ask(follower, "PUT", "/policy", json={"write": "async"}))[0] == 409
    for answer in (await client.ask("POST", "/promote", json={}), await client.ask("POST", "/promote", data="x")):
        check("POST", "/promote", *answer)
        assert answer[0] == 401
    assert (await ask(client, "POST", "/promote", json={}))[0] == 400
    status, answer = await client.ask("PUT", "/timing", headers={**AUTHORIZED, "Content-Type": "text/plain"})
    check("PUT", "/timing", status, answer)
    assert status == 415


def body_of(shape: Shape | None) -> Any:
    """An example of the body, which its schema accepts."""
    examples: dict[Shape | None, Any] = {
        None: None,
        Shape.NEW_MEMBER: JOINING,
        Shape.MODE_CHANGE: {"mode": "sync"},
        Shape.POLICY: {"write": "async"},
        Shape.TIMING: {"lease_ms": 600},
        Shape.PROMOTION: {"node": "n9", "force": False},
        Shape.STREAM_CHANGE: {"enabled": True, "start_from": "latest"},
        Shape.COMPARISON: {"id": "a"},
        Shape.COMPARED: {"id": "a", "offset": 1},
        Shape.COMPARED_RANGE: {"id": "a", "offset": 1, "start": "", "stop": "", "entries": 10},
        Shape.COMPARED_BOUNDS: {"id": "a", "offset": 1, "bounds": ["", "ff"]},
        Shape.COMPARED_ENTRIES: {"id": "a", "offset": 1, "start": "", "stop": "ff", "limit": 10},
    }
    if shape is not None:
        validator({"$ref": f"#/components/schemas/{shape}"}).validate(examples[shape])
    return examples[shape]


def curls() -> Iterator[tuple[str, str, str | None, bool]]:
    """Of each `curl` on the page: method, path, body, and whether it sends the password."""
    for block in re.findall(r"^```sh\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL):
        for line in block.splitlines():
            curl, *words = shlex.split(line)
            assert curl == "curl"
            given = dict(pairwise(words))
            url = urlsplit(words[-1])
            assert url.netloc == "127.0.0.1:8001"
            path = url.path + (f"?{url.query}" if url.query else "")
            yield given.get("-X", "GET"), path, given.get("-d"), "Authorization: Bearer" in line


async def test_the_examples_of_the_page_work(servers: HttpServers) -> None:
    client, leader = await single_leader(servers, PASSWORD)
    transaction = leader.node.begin()
    WritableKeyspace(transaction, now_ms=0).put_string(b"greeting", b"hello")
    await submit(leader.node, transaction)
    running = await servers.cluster.start("n2", priority=1)
    leader.node.membership_changes.add_member(running.member)
    await until(lambda: running.node.membership.get(NodeId("n2")) is not None)
    sent = 0
    for method, path, body, with_password in curls():
        headers = AUTHORIZED if with_password else {}
        if path == "/metrics":
            assert "replicator_epoch" in await client.text(path)
            continue
        status, answer = await client.ask(method, path, headers=headers, data=body)
        assert status in (200, 201, 202), answer
        if path.endswith("/mode"):
            await until(lambda: leader.node.membership.members[1].mode is Mode.SYNC)
        if "linearizable" in path:
            [shown] = re.findall(r"^```json\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
            assert json.loads(shown) == {**answer, "token": "…"}
        sent += 1
    assert sent == 13
