"""CPU time of processes on this machine."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


class CpuMeter:
    def __init__(self, pids: Mapping[str, int]) -> None:
        self._pids = pids
        self._before_s = self._read_s()

    def used_us(self, requests: int) -> dict[str, float]:
        """For each of `requests`, since this meter was made."""
        return {name: (now_s - self._before_s[name]) / requests * 1e6 for name, now_s in self._read_s().items()}

    def _read_s(self) -> dict[str, float]:
        return {name: _cpu_s(pid) for name, pid in self._pids.items()}


def _cpu_s(pid: int) -> float:
    """What the process has used until now, with its threads, without its children (proc_pid_stat(5))."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS_PER_S
