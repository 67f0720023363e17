"""Which processes of this machine still run."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from replicator.local.process import identify, is_alive, wait_until_exited
from tests.process_cluster import wait_for

FIRST_THREAD_ENDS = """
import ctypes, sys, threading
threading.Thread(target=sys.stdin.read).start()
ctypes.CDLL(None).pthread_exit(None)
"""


def test_a_process_runs_until_its_last_thread_has_ended() -> None:
    """Until then, what it has opened is in use, such as the port of a broker that was killed."""
    child = subprocess.Popen([sys.executable, "-c", FIRST_THREAD_ENDS], stdin=subprocess.PIPE)
    assert child.stdin is not None
    try:
        stat = Path(f"/proc/{child.pid}/stat")
        wait_for(lambda: ") Z " in stat.read_text())
        process = identify(child.pid)
        assert process is not None and is_alive(process)
        child.stdin.close()
        assert wait_until_exited(process, 30)
        assert identify(child.pid) is None  # a zombie: nobody has waited for it
    finally:
        child.kill()
        child.wait()
