"""The Python examples in docs/sql.md are run in their order."""

from __future__ import annotations

import doctest
import re
from pathlib import Path

from sqlalchemy.dialects import registry

from tests.fake_sql_server import FakeSqlCluster

PAGE = Path(__file__).parents[1] / "docs" / "sql.md"
registry.register("replicator", "replicator.client.sqlalchemy_dialect", "ReplicatorDialect")


def test_the_examples_give_the_documented_results(tmp_path: Path) -> None:
    cluster = FakeSqlCluster(tmp_path, password="")
    text = PAGE.read_text()
    for shown, node in zip(("127.0.0.1:7001", "127.0.0.1:7002"), cluster.nodes, strict=True):
        text = text.replace(shown, node)
    blocks = re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    test = doctest.DocTestParser().get_doctest("\n".join(blocks), {"__name__": "sql"}, PAGE.name, str(PAGE), 0)
    report: list[str] = []
    failed, attempted = doctest.DocTestRunner().run(test, out=report.append)
    cluster.close()
    assert not failed, "".join(report)
    assert attempted > 30
