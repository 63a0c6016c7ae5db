"""Which adapter an executor needs; told by what it can do, so that no library is imported for it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from edgekern._arguments import integer
from edgekern.calibration.scale.dask import DaskPool
from edgekern.calibration.scale.futures import FuturesPool
from edgekern.calibration.scale.ray import RayPool
from edgekern.errors import ArgumentTypeError, ArgumentValueError

if TYPE_CHECKING:
    from edgekern.calibration.scale.base import Pool

_FUNCTION = "Calibrator.collect_many"


def pool_of(executor: Any, workers: int | None) -> Pool:
    """An adapter for a pool, client or cluster; processes of our own where ``executor`` is None."""
    if workers is not None and integer(_FUNCTION, "workers", workers) < 1:
        raise ArgumentValueError(f"{_FUNCTION}: workers must be at least 1, got {workers}")
    if executor is None:
        return FuturesPool(None, workers)
    if _can(executor, "scatter", "submit", "ncores"):
        return DaskPool(executor, workers)
    if _can(executor, "put", "get", "remote"):
        return RayPool(executor, workers)
    if _can(executor, "submit", "shutdown"):
        return FuturesPool(executor, workers)
    raise ArgumentTypeError(
        f"{_FUNCTION}: executor must be a pool of concurrent.futures, a dask.distributed Client or the module ray, got "
        f"{type(executor).__name__}"
    )


def _can(executor: Any, *names: str) -> bool:
    return all(callable(getattr(executor, name, None)) for name in names)
