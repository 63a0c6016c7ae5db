"""What other processes do to a machine while something is timed on it."""

from __future__ import annotations

import os
import time
from pathlib import Path

_STAT = Path("/proc/stat")
_LEAST = 0.1  # of a CPU: less is the system's own housekeeping


class Others:
    """Watches from now on. Linux alone tells; elsewhere nothing is known."""

    def __init__(self) -> None:
        self._begin = self._read()

    def cpus(self) -> float | None:
        """How many CPUs others have kept busy so far, on average."""
        begin, end = self._begin, self._read()
        if begin is None or end is None or end[0] <= begin[0]:
            return None
        wall, busy, own = (after - before for before, after in zip(begin, end, strict=True))
        return max(0.0, busy - own) / wall

    def _read(self) -> tuple[float, float, float] | None:
        """Seconds: of the wall, that all CPUs were busy, that they were with this process."""
        try:
            fields = _STAT.read_text().splitlines()[0].split()[1:9]
        except OSError:
            return None
        user, nice, system, _idle, _waiting, *rest = map(int, fields)  # interrupts, and what a hypervisor took
        return time.perf_counter(), sum((user, nice, system, *rest)) / os.sysconf("SC_CLK_TCK"), time.process_time()


def told(cpus: float | None) -> list[str]:
    """A line, where others were busy."""
    if cpus is None or cpus < _LEAST:
        return []
    return [f"other processes kept {cpus:.1f} of {os.cpu_count()} CPUs busy meanwhile: alone, times are shorter"]
