"""Python's collector of cyclic garbage, in a node."""

from __future__ import annotations

import gc


def collect_seldom() -> None:
    """Let Python look for reference cycles less often: a node creates millions of records and changes, which form none.

    So what is large must not be part of a cycle.
    """
    gc.set_threshold(100_000, 20, 20)
