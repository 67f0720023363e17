"""The examples in docs/client.md are run in their order."""

from __future__ import annotations

import doctest
import re
from collections.abc import Callable
from pathlib import Path

from tests.redis_fixture import CLUSTER, ServerThread

PAGE = Path(__file__).parents[1] / "docs" / "client.md"
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def test_the_examples_give_the_documented_results(serve: Callable[..., ServerThread]) -> None:
    thread = serve(nodes=3)
    text = PAGE.read_text().replace('"replicator"', f'"{CLUSTER}"')
    for shown, server in zip((7001, 7002, 7003), thread.servers, strict=True):
        text = text.replace(f"127.0.0.1:{shown}", f"127.0.0.1:{server.port}")
    blocks = BLOCK.findall(text)
    assert len(blocks) == text.count("```") // 2, "the page has an example that is not run"
    test = doctest.DocTestParser().get_doctest("\n".join(blocks), {}, PAGE.name, str(PAGE), 0)
    report: list[str] = []
    failed, attempted = doctest.DocTestRunner().run(test, out=report.append)
    assert not failed, "".join(report)
    assert attempted > 30
