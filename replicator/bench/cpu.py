"""CPU time of processes on this machine."""

from __future__ import annotations

from collections.abc import Mapping

from replicator.local.process import cpu_s


class CpuMeter:
    def __init__(self, pids: Mapping[str, int]) -> None:
        self._pids = pids
        self._before_s = self._read_s()

    def used_us(self, requests: int) -> dict[str, float]:
        """For each of `requests`, since this meter was made."""
        return {name: (now_s - self._before_s[name]) / requests * 1e6 for name, now_s in self._read_s().items()}

    def _read_s(self) -> dict[str, float]:
        return {name: cpu_s(pid) for name, pid in self._pids.items()}
