"""The links between brokers and their clients: while one is cut, nothing passes and nobody is told."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress

import pytest

from replicator.address import Address
from replicator.local.kafka.proxy import HOST, Link, Proxies
from replicator.local.ports import random_free_port

LINE = b"line\n"


@pytest.fixture
def address() -> Address:
    return Address(HOST, random_free_port())


@pytest.fixture
async def link(address: Address) -> AsyncIterator[Link]:
    """At `address`, to a server that sends back what it receives."""

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(100):
            writer.write(data)
        writer.close()

    server = await asyncio.start_server(echo, HOST, 0)
    proxies = Proxies()
    yield proxies.add(server.sockets[0].getsockname()[1], address)
    await asyncio.to_thread(proxies.close)
    server.close()


@pytest.mark.usefixtures("link")
async def test_bytes_and_the_end_of_a_connection_pass(address: Address) -> None:
    reader, writer = await asyncio.open_connection(address.host, address.port)
    writer.write(LINE)
    assert await reader.readline() == LINE
    writer.write_eof()
    assert await reader.read() == b""
    writer.close()


async def test_what_was_sent_while_a_link_was_cut_arrives_once_it_is_healed(link: Link, address: Address) -> None:
    before, writer = await asyncio.open_connection(address.host, address.port)
    writer.write(LINE)
    assert await before.readline() == LINE
    link.cut()
    during, other = await asyncio.open_connection(address.host, address.port)
    replies = [asyncio.create_task(reader.readline()) for reader in (before, during)]
    for it in (writer, other):
        it.write(LINE)
    done, _ = await asyncio.wait(replies, timeout=0.1)
    assert not done
    link.heal()
    assert await asyncio.gather(*replies) == [LINE, LINE]
    writer.close()
    other.close()


async def test_a_server_that_is_not_there_is_a_closed_connection(address: Address) -> None:
    proxies = Proxies()
    proxies.add(random_free_port(), address)
    reader, writer = await asyncio.open_connection(address.host, address.port)
    with suppress(ConnectionResetError):
        assert await reader.read() == b""
    writer.close()
    await asyncio.to_thread(proxies.close)
