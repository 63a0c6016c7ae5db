"""What this machine is, and how many of its CPUs are used."""

from __future__ import annotations

from edgekern import _core
from edgekern._arguments import thread_count

__all__ = ["cpu_info", "get_num_threads", "set_num_threads"]


def cpu_info() -> dict[str, object]:
    """What this machine is to edgekern.

    Returns
    -------
    dict
        ``isa`` (the one in use: ``EDGEKERN_ISA`` as it was at the first call, or the best), ``available`` (best first),
        ``cores`` (CPUs this process may use), ``num_threads`` (the package's setting).

    Raises
    ------
    UnsupportedIsaError
        ``EDGEKERN_ISA`` names an ISA that this CPU lacks.
    """
    return {
        "isa": _core.resolve_isa(""),
        "available": _core.available_isas(),
        "cores": _core.allowed_cpus(),
        "num_threads": _core.num_threads(),
    }


def get_num_threads() -> int:
    """Threads that a call uses when it does not say; ``EDGEKERN_NUM_THREADS`` or the allowed CPUs at first."""
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
