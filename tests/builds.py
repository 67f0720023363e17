"""Tests that only the interpreted build can run (`make compiled` runs the others on the compiled one)."""

from __future__ import annotations

import pytest

from replicator.server.build import is_compiled

needs_interpreted = pytest.mark.skipif(
    is_compiled(), reason="replaces functions of modules that are compiled, whose callers do not look them up"
)
