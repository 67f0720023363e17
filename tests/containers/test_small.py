"""The profile `small`: one broker."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.containers.stack import NODES, running
from tests.process_cluster import wait_for

pytestmark = [pytest.mark.containers, pytest.mark.timeout(600)]


def test_one_broker_is_enough_to_start(tmp_path: Path) -> None:
    with running(tmp_path / "compose", "small") as stack:
        assert stack.ask(stack.leader(), "SET", "key", "value") == b"OK"
        for node in NODES:
            wait_for(lambda node=node: stack.ask(node, "GET", "key") == b"value")  # type: ignore[misc]
