"""The clusters of the tests of SQL clients: only these fixtures know which server it is."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import pytest

from tests.fake_sql_server import CLUSTER, PASSWORD, FakeSqlCluster


class SqlCluster(Protocol):
    """Two nodes with `PASSWORD`, in a cluster named `CLUSTER`. The first is the leader."""

    @property
    def nodes(self) -> list[str]: ...

    def close(self) -> None: ...


def dsn_of(cluster: SqlCluster) -> str:
    first, *others = cluster.nodes
    return f"replicator://:{PASSWORD}@{first}/?cluster={CLUSTER}" + "".join(f"&host={node}" for node in others)


@pytest.fixture(params=[FakeSqlCluster])
def sql_cluster(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[SqlCluster]:
    cluster: SqlCluster = request.param(tmp_path)
    yield cluster
    cluster.close()


@pytest.fixture
def dsn(sql_cluster: SqlCluster) -> str:
    return dsn_of(sql_cluster)


@pytest.fixture
def fake(sql_cluster: SqlCluster) -> FakeSqlCluster:
    """For tests that inject faults, or look at what the nodes have received."""
    if not isinstance(sql_cluster, FakeSqlCluster):
        pytest.skip("needs injected faults")
    return sql_cluster
