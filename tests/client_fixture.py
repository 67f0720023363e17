"""The blocking and the asyncio client behind one interface, so that each test runs with both."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from replicator.client import AsyncClient, AsyncSession, Client


class Blocking:
    """An asyncio client or session on its own event loop, with the interface of the blocking one."""

    def __init__(self, runner: asyncio.Runner, inner: AsyncClient | AsyncSession) -> None:
        self._runner = runner
        self._inner = inner

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._inner, name)
        return self._blocking(found) if callable(found) else found

    def close(self) -> None:
        assert isinstance(self._inner, AsyncClient)
        self._runner.run(self._inner.aclose())

    def _blocking(self, method: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            result = method(*args, **options)
            if inspect.iscoroutine(result):
                return self._runner.run(result)
            return Blocking(self._runner, result) if isinstance(result, AsyncSession) else result

        return call


Connect = Callable[..., Any]


@pytest.fixture(params=["sync", "asyncio"])
def connect(request: pytest.FixtureRequest) -> Iterator[Connect]:
    """Creates clients of the parametrised kind, and closes them."""
    clients: list[Any] = []
    with asyncio.Runner() as runner:

        def make(*args: Any, **options: Any) -> Any:
            is_sync = request.param == "sync"
            client = Client(*args, **options) if is_sync else Blocking(runner, AsyncClient(*args, **options))
            clients.append(client)
            return client

        yield make
        for client in clients:
            client.close()
