"""Readers of a change stream while Kafka does not answer."""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import Iterator

import pytest

from replicator.errors import BrokerUnavailable
from replicator.local.kafka import LocalBroker
from replicator.log.kafka.admin import ensure_topics
from replicator.stream import BlockingChangeStream, Change, ChangeStream
from tests.stream_fixture import PublishedStream

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(240)]

DEADLINE_S = 40.0


@pytest.fixture
def published(local_broker: LocalBroker) -> Iterator[PublishedStream]:
    bootstrap, name = local_broker.start(), f"o-{uuid.uuid4().hex[:8]}"
    ensure_topics(bootstrap, name)
    yield PublishedStream(bootstrap, name)


async def test_reads_report_an_outage_and_go_on_after_it(
    local_broker: LocalBroker, published: PublishedStream, caplog: pytest.LogCaptureFixture
) -> None:
    published.publish("SET a 1")
    blocking = published.open()
    async with ChangeStream(published.bootstrap, published.cluster) as stream:
        assert len(blocking.read(1, DEADLINE_S)) == len(await stream.read(1, DEADLINE_S)) == 1
        async with ChangeStream(published.bootstrap, published.cluster, stream.position) as waiting:
            iterated = asyncio.ensure_future(anext(aiter(waiting)))
            await asyncio.to_thread(local_broker.stop)
            with pytest.raises(BrokerUnavailable, match=f"Kafka at {published.bootstrap} does not answer"):
                await asyncio.to_thread(blocking.read, 1, DEADLINE_S)
            with pytest.raises(BrokerUnavailable, match=f"Kafka at {published.bootstrap} does not answer"):
                await stream.read(1, DEADLINE_S)
            await asyncio.to_thread(local_broker.start)
            await asyncio.to_thread(published.publish, "SET b 1")
            found = [*await asyncio.to_thread(next_of, blocking), *await patiently(stream), await iterated]
            assert [it.row for it in found] == [b"b"] * 3
        blocking.close()
    warnings = [it for it in caplog.records if it.name == "replicator.stream.aio" and it.levelno == logging.WARNING]
    assert len(warnings) == 1, "the iterator says once that it waits"


def next_of(stream: BlockingChangeStream) -> list[Change]:
    """As an iterator, which waits."""
    return [next(iter(stream))]


async def patiently(stream: ChangeStream) -> list[Change]:
    """It reports the outage again while it lasts."""
    while True:
        try:
            return await stream.read(1, DEADLINE_S)
        except BrokerUnavailable:
            continue
