"""Processes on this machine, identified so that a reused pid is not mistaken for them. Linux only: reads /proc.

psutil is no alternative: it reports when a process started by the wall clock, which may be set in the meantime.
"""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

from replicator.store.boot import boot_id

_POLL_S = 0.02
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class ProcessIdentity:
    """`started` is the boot id of the machine and the clock tick at which the process started."""

    pid: int
    started: str


def identify(pid: int) -> ProcessIdentity | None:
    """None if there is no such process, or all its threads have ended (a zombie).

    After a kill, the first thread may end before the others; until those have ended, the ports of the process are in
    use. Raises `ConfigError` if this system is not Linux.
    """
    boot = boot_id()
    try:
        state, *others = _stat(pid)
    except (FileNotFoundError, ProcessLookupError):
        return None
    if state == "X" or (state == "Z" and int(others[16]) <= 1):  # num_threads; a zombie counts as one
        return None
    return ProcessIdentity(pid, f"{boot}/{others[18]}")


def cpu_s(pid: int) -> float:
    """The CPU time that the process has used until now, with its threads, without its children.

    Raises `FileNotFoundError` or `ProcessLookupError` if there is no such process.
    """
    fields = _stat(pid)
    return (int(fields[11]) + int(fields[12])) / _TICKS_PER_S


def _stat(pid: int) -> list[str]:
    """The fields after the program's name, which is in brackets and may contain anything (proc_pid_stat(5))."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def is_alive(process: ProcessIdentity) -> bool:
    return identify(process.pid) == process


def wait_until_exited(process: ProcessIdentity, timeout_s: float) -> bool:
    """False if the process still runs after the timeout."""
    deadline = time.monotonic() + timeout_s
    while is_alive(process):
        if time.monotonic() >= deadline:
            return False
        time.sleep(_POLL_S)
    return True


def terminate(process: ProcessIdentity, grace_s: float, kill_s: float = 10) -> bool:
    """SIGTERM, and SIGKILL after `grace_s`. False if the process still runs."""
    return _send(process, signal.SIGTERM, grace_s) or kill(process, kill_s)


def kill(process: ProcessIdentity, timeout_s: float = 10) -> bool:
    """SIGKILL. False if the process still runs after the timeout."""
    return _send(process, signal.SIGKILL, timeout_s)


def _send(process: ProcessIdentity, number: signal.Signals, timeout_s: float) -> bool:
    if not is_alive(process):
        return True
    try:
        os.kill(process.pid, number)
    except ProcessLookupError:
        return True
    return wait_until_exited(process, timeout_s)
