"""The programs in docs/stream.md are run, and killed in the middle, and end with what the changes say."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import psycopg
import pytest
import redis
import redis.asyncio

import replicator.stream
from replicator.bench.peers import redis_server
from replicator.errors import ConfigError
from replicator.stream import ChangeStream, FileCheckpoints, PostgresCheckpoints, StreamEnd
from tests.stream_fixture import PublishedStream, PublishedStreams

pytestmark = pytest.mark.kafka

PAGE = Path(__file__).parents[1] / "docs" / "stream.md"
PROGRAM = re.compile(r"(?:^### ([^\n]*)\n(?:(?!^#).)*?)?^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PROGRAM_LINES = 40


class Crash(Exception):
    pass


class Program:
    """One of the page, on another cluster, which ends at the last change."""

    def __init__(self, published: PublishedStream, source: str, **other: str) -> None:
        replaced = {"127.0.0.1:9092": published.bootstrap, '"replicator"': f'"{published.cluster}"', **other}
        for shown, real in replaced.items():
            source = source.replace(shown, real)
        self._source = source
        self.names: dict[str, Any] = {}

    def run(self) -> None:
        self.names = {"__name__": "__main__"}
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(replicator.stream, "ChangeStream", partial(ChangeStream, follow=False), raising=False)
            exec(compile(self._source, str(PAGE), "exec"), self.names)


def programs() -> dict[str, str]:
    return {heading or f"block {number}": source for number, (heading, source) in enumerate(PROGRAM.findall(text()))}


def text() -> str:
    return PAGE.read_text()


def crash_once(method: Callable[..., Any], at_call: int) -> Callable[..., Any]:
    """The method of a class, which crashes after it has done its work."""
    calls = 0

    async def crashing(*args: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        result = await method(*args, **options)
        if calls == at_call:
            raise Crash
        return result

    return crashing


async def crash(*args: Any, **options: Any) -> None:
    raise Crash


@pytest.fixture
def published(change_stream: PublishedStreams) -> PublishedStream:
    return change_stream()


def test_the_page_has_these_programs() -> None:
    assert list(programs()) == ["block 0", "A cache invalidator", "A search index", "A materialised view", "block 4"]
    for source in programs().values():
        assert len(source.splitlines()) < PROGRAM_LINES


def test_changes_are_printed(published: PublishedStream, capsys: pytest.CaptureFixture[str]) -> None:
    published.publish("SET a 1")
    Program(published, programs()["block 0"]).run()
    assert (
        capsys.readouterr().out
        == "1-0 c b'a' None Image(type='string', value=b'1', expires_at_ms=None, columns=None)\n"
    )


@pytest.fixture
def cache(tmp_path: Path) -> Iterator[int]:
    """The port of a Redis."""
    try:
        with redis_server(tmp_path / "redis") as port:
            yield port
    except ConfigError as error:
        pytest.skip(str(error))


def test_the_cache_invalidator(published: PublishedStream, cache: int, monkeypatch: pytest.MonkeyPatch) -> None:
    client = redis.Redis(port=cache)
    users = [b"rendered:user:%d" % number for number in range(5)]
    client.mset(dict.fromkeys([*users, b"rendered:page:1"], "old"))
    program = Program(published, programs()["A cache invalidator"], **{"6379": str(cache)})
    published.publish("SET user:0 1", "SET user:1 1", "SET page:1 1")
    with monkeypatch.context() as patch:
        patch.setattr(redis.asyncio.Redis, "delete", crash_once(redis.asyncio.Redis.delete, 2))
        with pytest.raises(Crash):
            program.run()
    client.mset(dict.fromkeys(users[:2], "old"))
    published.publish("HSET user:2 name Ada", "DEL user:0")
    program.run()
    assert client.mget(users) == [None, None, None, b"old", b"old"]
    client.set(users[0], "new")
    program.run()  # nothing has changed since
    assert client.mget(users[0], "rendered:page:1") == [b"new", b"old"]
    client.close()


def test_the_search_index(published: PublishedStream, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    program = Program(published, programs()["A search index"])
    published.publish("HSET article:1 title Kafka body log", "HSET article:2 title Redis body log", "SET other log")
    with monkeypatch.context() as patch:
        patch.setattr(FileCheckpoints, "save", crash)
        with pytest.raises(Crash):
            program.run()
    published.publish("HSET article:1 title Zookeeper", "HDEL article:2 body")
    program.run()
    assert program.names["search"]("log") == ["article:1"]
    assert program.names["search"]("zookeeper") == ["article:1"]
    assert program.names["search"]("kafka") == []
    assert list(program.names["index"].execute("SELECT count(*) FROM articles")) == [(3,)]


def test_the_materialised_view(published: PublishedStream, postgres: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with psycopg.connect(postgres, autocommit=True) as connection:
        connection.execute("DROP TABLE IF EXISTS per_country, replicator_checkpoints")
        program = Program(published, programs()["A materialised view"], **{'"dbname=shop"': repr(postgres)})
        published.publish("HSET airport:a country DE", "HSET airport:b country DE", "HSET airport:c country IT")
        with monkeypatch.context() as patch:
            patch.setattr(PostgresCheckpoints, "save", crash_once(PostgresCheckpoints.save, 1))
            with pytest.raises(Crash):
                program.run()
        published.publish("HSET airport:a country FR", "DEL airport:c", "HSET user:1 country DE")
        for _ in range(2):
            program.run()
            counted = connection.execute("SELECT country, airports FROM per_country WHERE airports <> 0 ORDER BY 1")
            assert counted.fetchall() == [("DE", 1), ("FR", 1)]


def test_a_checkpoint_is_reset(published: PublishedStream, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    published.publish("SET a 1")
    checkpoints = FileCheckpoints("checkpoints")
    with published.open(StreamEnd.LATEST) as stream:
        checkpoints.save_blocking("search", stream.position)
    Program(published, programs()["block 4"]).run()
    stored = checkpoints.load_blocking("search")
    assert stored is not None and stored.next_offsets == (0,)
