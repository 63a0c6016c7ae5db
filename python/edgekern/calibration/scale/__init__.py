"""Calibration on many workers: of a process or thread pool, a Dask cluster, or Ray. None of it is a scheduler."""

from edgekern.calibration.scale.driver import collect_on_workers
from edgekern.calibration.scale.pools import pool_of

__all__ = ["collect_on_workers", "pool_of"]
