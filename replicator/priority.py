"""The priority of this process, for work that must not slow a node."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

_AUTOGROUP = Path("/proc/self/autogroup")


def lower(niceness: int) -> None:
    """Call it first: threads that this process starts inherit it.

    Where Linux has autogroups, niceness counts within a session only, and the session has a niceness of its own
    (sched(7)). It is lowered if this process has begun the session, and so does not share it with others.
    """
    os.nice(niceness)
    if os.getsid(0) == os.getpid():
        with contextlib.suppress(OSError):
            _AUTOGROUP.write_text(str(niceness))
