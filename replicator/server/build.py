"""Which build of this program runs."""

from __future__ import annotations

from pathlib import Path

from replicator.records import fast


def is_compiled() -> bool:
    """Whether the modules that pyproject.toml lists for mypyc are compiled."""
    return Path(fast.__file__).suffix != ".py"
