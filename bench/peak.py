"""The limits of this machine, measured in the run that quotes them."""

from dataclasses import dataclass, field

from edgekern import _core

PROBE_SECONDS = 0.2
# A buffer smaller than this is read faster than threads start; it would measure their start.
SMALLEST_PROBE_BYTES = 1 << 18


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
        """Bytes read a second from a buffer of about this size: a small one lives in a cache and is read from there."""
        probe = max(SMALLEST_PROBE_BYTES, 1 << (size_bytes - 1).bit_length())
        if probe not in self._bandwidth:
            self._bandwidth[probe] = _core.measure_read_bandwidth(probe, self.threads, PROBE_SECONDS)
        return self._bandwidth[probe]

    def seconds(self, operations: int, read_bytes: int) -> float:
        """Least time for so many operations on so many bytes: whichever of the two limits binds."""
        return max(operations / self.operations_per_second, read_bytes / self.bandwidth(read_bytes))


def measure_peak(isa: str, threads: int) -> Peak:
    return Peak(isa, threads, _core.measure_dot_peak(isa, threads, PROBE_SECONDS))
