"""What this machine can do at best, measured next to what is timed, and when a run is void.

Two limits: multiply-adds on registers, int8 dot products or float32, and reading memory. The reading limit is the best
of 1 to 8 streams a thread, with and without software prefetch, in huge and in small pages: a kernel that beats it was
not reading memory.
"""

import mmap
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path

import numpy as np
import numpy.typing as npt

from edgekern import _core

STREAMS = range(1, 9)
PREFETCH_BYTES = (0, 512, 1024, 2048)
# So many of the fastest ways are tried again in every sample: the very fastest wins partly by luck.
FINALISTS = 3
# The peak may move this much around a block: more, and the ratios inside the block mean nothing.
DRIFT = 0.03
# A best-of beats a best-of by chance, but not by more than this.
SLACK = 0.01
# A peer that stands below this part of its known share of the peak was handicapped.
PEER_SHARE = 0.9
HUGE_PAGE = 2 << 20
# Below this, a pass is over before its clock is read.
SMALLEST_BUFFER = 1 << 18
_FALLBACK_CACHE_BYTES = 32 << 20


def last_level_cache_bytes() -> int:
    """Size of the largest cache that the first CPU uses."""
    sizes = [path.read_text().strip() for path in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size")]
    units = {"K": 1 << 10, "M": 1 << 20}
    return max(
        (int(size[:-1]) * units[size[-1]] for size in sizes if size[-1:] in units), default=_FALLBACK_CACHE_BYTES
    )


@dataclass(frozen=True)
class Sample:
    """The limits at one moment, all threads together."""

    operations_per_second: float
    bytes_per_second: float


@dataclass
class Probe:
    """Measures the limits of one ISA on so many threads.

    Attributes
    ----------
    peak : given an ISA, threads and seconds, the operations a second on registers
    streams : the fastest ways to read: streams a thread, prefetch distance in bytes, kind of pages
    """

    isa: str
    threads: int
    memory_bytes: int
    seconds: float = 0.05
    peak: Callable[[str, int, float], float] = _core.measure_dot_peak
    streams: list[tuple[int, int, str]] = field(init=False)
    _pages: dict[str, npt.NDArray[np.uint8]] = field(init=False, repr=False)
    _cached: dict[int, float] = field(init=False, repr=False, default_factory=dict)

    def __post_init__(self) -> None:
        self._pages = {kind: _pages(kind, self.memory_bytes) for kind in ("huge", "small")}
        rates = {key: self._read(*key, self.seconds / 4) for key in product(STREAMS, PREFETCH_BYTES, self._pages)}
        self.streams = sorted(rates, key=rates.__getitem__, reverse=True)[:FINALISTS]

    def _read(self, streams: int, prefetch: int, pages: str, seconds: float, size: int | None = None) -> float:
        memory = self._pages[pages][:size]
        return _core.measure_read_bandwidth(memory, self.threads, streams, prefetch, seconds)

    def sample(self) -> Sample:
        return Sample(self.peak(self.isa, self.threads, self.seconds), self.read())

    def read(self) -> float:
        """Bytes a second from memory, now."""
        return max(self._read(*way, self.seconds / FINALISTS) for way in self.streams)

    def cached_bytes_per_second(self, size: int) -> float:
        """Reading a buffer of this size again and again, from whichever cache holds it."""
        size = min(max(SMALLEST_BUFFER, size), self.memory_bytes)
        if size not in self._cached:
            ways = product((1, 2, 4, 8), PREFETCH_BYTES, ["huge"])
            self._cached[size] = max(self._read(*way, self.seconds / 4, size) for way in ways)
        return self._cached[size]


def _pages(kind: str, size: int) -> npt.NDArray[np.uint8]:
    """Memory of its own that starts on a huge page's boundary."""
    memory = mmap.mmap(-1, size + HUGE_PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        memory.madvise(mmap.MADV_HUGEPAGE if kind == "huge" else mmap.MADV_NOHUGEPAGE)
    array = np.frombuffer(memory, np.uint8)
    array = array[-array.ctypes.data % HUGE_PAGE :][:size]
    array[:] = 1  # pages that were never written are all one page of zeros
    return array


def void_reasons(
    before: Sample,
    after: Sample,
    operations_per_second: Mapping[str, float],
    bytes_per_second: Mapping[str, float],
    known: Mapping[str, tuple[float, float]],
) -> list[str]:
    """Why a block must not be quoted; empty when it may.

    Parameters
    ----------
    operations_per_second, bytes_per_second : what each contender did at best; bytes only where they come from memory
    known : operations a second of a peer, and the share of the peak that it is known to reach on this shape
    """
    reasons = []
    drift = abs(after.operations_per_second / before.operations_per_second - 1)
    if drift > DRIFT:
        reasons.append(f"the peak drifted by {100 * drift:.1f} %")
    peak = max(before.operations_per_second, after.operations_per_second)
    read = max(before.bytes_per_second, after.bytes_per_second)
    for name, rate in operations_per_second.items():
        if rate > peak * (1 + SLACK):
            reasons.append(f"{name} at {100 * rate / peak:.1f} % of the peak")
    for name, rate in bytes_per_second.items():
        if rate > read * (1 + SLACK):
            reasons.append(f"{name} at {100 * rate / read:.1f} % of the read bandwidth")
    for name, (rate, share) in known.items():
        if rate < PEER_SHARE * share * peak:
            reasons.append(f"{name} at {100 * rate / peak:.0f} % of the peak, known to reach {100 * share:.0f} %")
    return reasons
