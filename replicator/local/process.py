"""One process of this machine, told apart from a later one with the same pid. Linux: reads /proc."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

_POLL_S = 0.02


@dataclass(frozen=True)
class ProcessMark:
    """`started` names the boot of the machine and the clock tick of it at which the process began."""

    pid: int
    started: str


def mark_of(pid: int) -> ProcessMark | None:
    """None if there is no such process, or only a zombie."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The second field is the program's name in brackets and may hold anything; see proc_pid_stat(5).
    state, *others = stat.rpartition(")")[2].split()
    if state in "ZX":
        return None
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return ProcessMark(pid, f"{boot}/{others[18]}")


def is_alive(process: ProcessMark) -> bool:
    return mark_of(process.pid) == process


def wait_gone(process: ProcessMark, timeout_s: float) -> bool:
    """Whether it has ended within the time."""
    deadline = time.monotonic() + timeout_s
    while is_alive(process):
        if time.monotonic() >= deadline:
            return False
        time.sleep(_POLL_S)
    return True


def terminate(process: ProcessMark, grace_s: float, kill_s: float = 10) -> bool:
    """SIGTERM, and SIGKILL after `grace_s`. Whether it has ended."""
    return _send(process, signal.SIGTERM, grace_s) or kill(process, kill_s)


def kill(process: ProcessMark, timeout_s: float = 10) -> bool:
    """SIGKILL. Whether it has ended."""
    return _send(process, signal.SIGKILL, timeout_s)


def _send(process: ProcessMark, number: signal.Signals, timeout_s: float) -> bool:
    if not is_alive(process):
        return True
    try:
        os.kill(process.pid, number)
    except ProcessLookupError:
        return True
    return wait_gone(process, timeout_s)
