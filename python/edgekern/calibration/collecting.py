"""Many batches: here or on workers, with progress, and with a file to go on from."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from edgekern.calibration.checkpoint import Checkpoint, digest_of
from edgekern.calibration.progress import progress_bar

if TYPE_CHECKING:
    from edgekern.calibration.counting import Counting
    from edgekern.calibration.feeds import Feeds


def collect_all(
    calibrator: Counting,
    batches: Iterable[Feeds],
    *,
    executor: Any,
    workers: int | None,
    checkpoint: str | os.PathLike[str] | None,
    progress: bool,
) -> None:
    """Count every batch; see :meth:`Calibrator.collect_many`."""
    saved = None if checkpoint is None else Checkpoint(calibrator, checkpoint)
    try:
        with progress_bar("calibrating", _length(batches), enabled=progress) as step:
            if executor is not None or workers not in (None, 1):
                _collect_on(calibrator, executor, workers, batches, step, saved)
            else:
                _collect_here(calibrator, batches, step, saved)
    except Exception:  # a batch that fails counts nothing; an interrupt may come while one is half counted
        if saved is not None:
            saved.save()
        raise
    if saved is not None:
        saved.finish()


def _collect_here(
    calibrator: Counting, batches: Iterable[Feeds], step: Callable[[], None], saved: Checkpoint | None
) -> None:
    for number, feeds in enumerate(batches):
        if saved is None or number >= saved.done:
            calibrator.collect(feeds)
        if saved is not None:
            saved.passed(digest_of(feeds))
        del feeds  # else it would live while the iterable makes the next batch
        step()


def _collect_on(
    calibrator: Counting,
    executor: Any,
    workers: int | None,
    batches: Iterable[Feeds],
    step: Callable[[], None],
    saved: Checkpoint | None,
) -> None:
    from edgekern.calibration.scale import collect_on_workers, pool_of

    pool = pool_of(executor, workers)
    try:
        collect_on_workers(calibrator, batches, pool, step, saved)
    finally:
        pool.close()


def _length(batches: object) -> int | None:
    try:
        return len(batches)  # type: ignore[arg-type]
    except TypeError:  # none, or a loader of an iterable that has none
        return None
