"""What this machine is, and how many of its CPUs are used."""

from __future__ import annotations

import platform
from pathlib import Path

import numpy as np

from edgekern import _core
from edgekern._arguments import thread_count

__all__ = ["cpu_info", "get_num_threads", "set_num_threads"]

_PAGE_BYTES = 4096  # that each stream of a thread reads at least


def cpu_info() -> dict[str, object]:
    """What this machine is to edgekern.

    Returns
    -------
    dict
        ``isa`` (the one in use: ``EDGEKERN_ISA`` as it was at the first call, or the best), ``available`` (best first),
        ``cores`` (CPUs this process may use), ``num_threads`` (the package's setting).

    Raises
    ------
    UnsupportedIsaError, ArgumentValueError
        ``EDGEKERN_ISA`` names an ISA that this CPU lacks, or ``EDGEKERN_NUM_THREADS`` is no number of threads. So does
        whatever needs them.
    """
    return {
        "isa": _core.resolve_isa(""),
        "available": _core.available_isas(),
        "cores": _core.allowed_cpus(),
        "num_threads": _core.num_threads(),
    }


def get_num_threads() -> int:
    """Threads that a call uses when it does not say; ``EDGEKERN_NUM_THREADS`` or the allowed CPUs at first.

    Raises
    ------
    ArgumentValueError
        ``EDGEKERN_NUM_THREADS`` is no number of threads, and :func:`set_num_threads` was not called.
    """
    return _core.num_threads()


def set_num_threads(num_threads: int) -> None:
    """Set how many threads a call uses when it does not say.

    Parameters
    ----------
    num_threads : int
        At least 1.

    Raises
    ------
    ArgumentValueError
    """
    _core.set_num_threads(thread_count("set_num_threads", num_threads))


def cpu_model() -> str:
    """What the CPU calls itself, as Linux tells it; elsewhere its architecture."""
    try:
        lines = [line.partition(":") for line in Path("/proc/cpuinfo").read_text().splitlines()]
    except OSError:
        lines = []
    facts = {name.strip(): value.strip() for name, _, value in reversed(lines)}  # of the first CPU
    parts = [facts[name] for name in ("CPU implementer", "CPU part", "CPU revision") if name in facts]  # Arm's
    return facts.get("model name") or " ".join([platform.machine(), *parts])


def read_bandwidth(nbytes: int, num_threads: int, *, most_bytes: int = 512 << 20, seconds: float = 0.05) -> float:
    """Bytes per second at which this machine reads so many again and again, from memory or whichever cache holds them.

    Parameters
    ----------
    nbytes : at most ``most_bytes`` of them are read
    num_threads : 0 is the package's setting; no more read than have a page of the bytes each
    seconds : for each of four ways to read
    """
    size = min(max(nbytes, 1 << 16), most_bytes)
    data = np.ones(size // 64 * 64, np.uint8)
    threads = min(num_threads or _core.num_threads(), size // _PAGE_BYTES)
    ways = [streams for streams in (1, 2, 4, 8) if threads * streams * _PAGE_BYTES <= size]
    return max(_core.measure_read_bandwidth(data, threads, streams, 0, seconds) for streams in ways)
