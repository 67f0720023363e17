from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.containers.stack import Stack, missing, running


@pytest.fixture(scope="session", autouse=True)
def _engine() -> None:
    why = missing()
    if why is not None:
        pytest.skip(why)


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """For all tests that leave it as they found it."""
    with running(tmp_path_factory.mktemp("stack") / "compose") as stack:
        yield stack
