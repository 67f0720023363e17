"""Processes that a node starts end with it."""

from __future__ import annotations

import os
import subprocess
import sys

CODE = """
import signal
from replicator import child_process
print(child_process.begin(3).decode(), flush=True)
signal.pause()
"""


def test_it_gets_its_work_and_ends_when_stdin_is_closed() -> None:
    process = subprocess.Popen([sys.executable, "-c", CODE], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdin is not None and process.stdout is not None
    try:
        process.stdin.write(b"the work\n")
        process.stdin.flush()
        assert process.stdout.readline() == b"the work\n"
        assert process.poll() is None
        assert os.getpriority(os.PRIO_PROCESS, process.pid) == min(19, os.getpriority(os.PRIO_PROCESS, 0) + 3)
        process.stdin.close()
        assert process.wait(30) == 1
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
