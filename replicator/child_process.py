"""A process that a node starts for work that must not slow it, such as a publisher or the copy of a store.

It gets its work as the first line of stdin, and ends when stdin is closed, so it does not outlive its node.
"""

from __future__ import annotations

import os
import sys
import threading
from io import FileIO

from replicator import priority


def begin(niceness: int) -> bytes:
    """Call it first in the process. Returns its work, which says how it logs (`logging_setup`)."""
    priority.lower(niceness)
    node = FileIO(sys.stdin.fileno(), closefd=False)  # the buffer of stdin would be locked when Python ends
    work = node.readline()
    threading.Thread(target=_end_with, args=(node,), daemon=True).start()
    return work


def _end_with(node: FileIO) -> None:
    node.read()
    os._exit(1)
