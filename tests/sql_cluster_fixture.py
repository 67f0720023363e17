"""The clusters of the tests of SQL clients: only these fixtures know which server it is."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import pytest

from tests.fake_sql_server import CLUSTER, PASSWORD, FakeSqlCluster
from tests.redis_fixture import STEADY, ServerThread


class SqlCluster(Protocol):
    """Two nodes with `PASSWORD`, in a cluster named `CLUSTER`. The first is the leader."""

    @property
    def nodes(self) -> list[str]: ...

    def close(self) -> None: ...


def dsn_of(cluster: SqlCluster) -> str:
    first, *others = cluster.nodes
    return f"replicator://:{PASSWORD}@{first}/?cluster={CLUSTER}" + "".join(f"&host={node}" for node in others)


class MemorySqlCluster:
    """The servers of replicator, on nodes in memory."""

    def __init__(self, folder: Path) -> None:
        (folder / "cluster").mkdir()
        self._thread = ServerThread(folder / "cluster", nodes=2, timing=STEADY, password=PASSWORD, cluster=CLUSTER)

    @property
    def nodes(self) -> list[str]:
        return [f"127.0.0.1:{it.port}" for it in self._thread.servers]

    def close(self) -> None:
        self._thread.close()


def choose_clusters(metafunc: pytest.Metafunc) -> None:
    """Tests run on the fake and on the servers of replicator, but for those that inject faults into the fake."""
    if "sql_cluster" in metafunc.fixturenames:
        kinds = [FakeSqlCluster] if "fake" in metafunc.fixturenames else [FakeSqlCluster, MemorySqlCluster]
        metafunc.parametrize("sql_cluster", kinds, indirect=True, ids=lambda it: it.__name__)


@pytest.fixture
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
    assert isinstance(sql_cluster, FakeSqlCluster)
    return sql_cluster
