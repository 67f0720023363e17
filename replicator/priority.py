"""The priority of this process, for work that must not slow a node."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

_AUTOGROUP = Path("/proc/self/autogroup")


def lower(niceness: int) -> None:
    """To be called first, by the first process of a session: threads that it starts inherit it.

    Where Linux has autogroups, niceness counts within a session only, and the session has a niceness of its own
    (sched(7)).
    """
    os.nice(niceness)
    with contextlib.suppress(OSError):
        _AUTOGROUP.write_text(str(niceness))
