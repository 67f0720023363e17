"""The examples in docs/client.md are run in their order, and so is that of redis-py with Sentinel in docs/redis.md."""

from __future__ import annotations

import doctest
import re
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

from tests.redis_fixture import CLUSTER, ServerThread

DOCS = Path(__file__).parents[1] / "docs"
PAGE = DOCS / "client.md"
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def test_the_examples_give_the_documented_results(serve: Callable[..., ServerThread]) -> None:
    thread = serve(nodes=3)
    text = page_for(thread, PAGE)
    blocks = BLOCK.findall(text)
    assert len(blocks) == text.count("```") // 2, "the page has an example that is not run"
    test = doctest.DocTestParser().get_doctest("\n".join(blocks), {}, PAGE.name, str(PAGE), 0)
    report: list[str] = []
    failed, attempted = doctest.DocTestRunner().run(test, out=report.append)
    assert not failed, "".join(report)
    assert attempted > 30


def test_the_example_with_sentinel_writes_at_the_leader(serve: Callable[..., ServerThread]) -> None:
    page = page_for(serve(nodes=3), DOCS / "redis.md")
    [block] = [block for block in BLOCK.findall(page) if "Sentinel" in block]
    names: dict[str, Any] = {}
    exec(compile(block, "redis.md", "exec"), names)
    with closing(names["leader"]) as leader, closing(names["replica"]) as replica:
        assert leader.get("greeting") == b"hello"
        assert replica.ping()


def page_for(thread: ServerThread, page: Path) -> str:
    """The page with the name and the ports of this cluster."""
    text = page.read_text().replace('"replicator"', f'"{CLUSTER}"')
    for shown, server in zip((7001, 7002, 7003), thread.servers, strict=True):
        for colon in (":", '", '):
            text = text.replace(f"127.0.0.1{colon}{shown}", f"127.0.0.1{colon}{server.port}")
    return text
