"""A PostgreSQL of the tests; `REPLICATOR_TEST_POSTGRES` names a running one instead, as a DSN."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from replicator.bench.postgres import postgres_server
from replicator.errors import ConfigError


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """Its DSN."""
    named = os.environ.get("REPLICATOR_TEST_POSTGRES")
    if named:
        yield named
        return
    try:
        with postgres_server() as server:
            place = f"host=127.0.0.1 port={server.port} user=bench password={server.password} dbname=postgres"
            yield f"{place} client_encoding=utf8 options='-c synchronous_commit=local'"
    except ConfigError as error:
        pytest.skip(str(error))
