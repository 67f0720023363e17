"""The cluster of the tests of SQL clients: only this fixture knows which server it is."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fake_sql_server import SqlCluster


@pytest.fixture
def sql_cluster(tmp_path: Path) -> Iterator[SqlCluster]:
    """Two nodes with a password; the first is the leader."""
    cluster = SqlCluster(tmp_path)
    yield cluster
    cluster.close()
