"""The limits of this machine, measured in the run that quotes them."""

from dataclasses import dataclass, field

from edgekern import _core

PROBE_SECONDS = 0.2


@dataclass
class Peak:
    """What one run can reach at best.

    Attributes
    ----------
    isa : the dot-product instructions that were probed
    threads : how many cores the limits are for
    operations_per_second : int8 dot products on registers, two operations a multiply-add, all threads
    """

    isa: str
    threads: int
    operations_per_second: float
    _bandwidth: dict[int, float] = field(default_factory=dict)

    def bandwidth(self, size_bytes: int) -> float:
        """Bytes read a second from a buffer of this size, so that a small one is timed in the cache that holds it."""
        if size_bytes not in self._bandwidth:
            self._bandwidth[size_bytes] = _core.measure_read_bandwidth(size_bytes, self.threads)
        return self._bandwidth[size_bytes]

    def seconds(self, operations: int, read_bytes: int) -> float:
        """Least time for so many operations on so many bytes: whichever of the two limits binds."""
        return max(operations / self.operations_per_second, read_bytes / self.bandwidth(read_bytes))


def measure_peak(isa: str, threads: int) -> Peak:
    return Peak(isa, threads, threads * _core.measure_dot_peak(isa, PROBE_SECONDS))
