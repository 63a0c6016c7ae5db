"""Sends feeds to workers and adds what they counted, in the order of the feeds."""

from __future__ import annotations

import hashlib
import pickle
import secrets
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

from edgekern.calibration.scale.worker import Counted, count
from edgekern.calibration.sources.base import check_unreadable, report_unreadable
from edgekern.calibration.sources.rows import RowSamples
from edgekern.errors import CalibrationError

if TYPE_CHECKING:
    from edgekern.calibration.checkpoint import Checkpoint
    from edgekern.calibration.counting import Counting
    from edgekern.calibration.scale.base import Pool

_MOST_ROWS, _MOST_BYTES = 16, 32 << 20  # of one task: what is sent waits in memory, and an interrupt for its end
_AHEAD = 2  # tasks that wait, for each worker


class _Task(NamedTuple):
    batches: Any
    first: int
    run: bool


def collect_on_workers(
    calibrator: Counting,
    batches: Iterable[Any],
    pool: Pool,
    step: Callable[[], None],
    checkpoint: Checkpoint | None = None,
) -> None:
    """Count feeds on workers: to the bit what one process counts.

    Raises
    ------
    CalibrationError
        A feed fails on a worker; the message has its number and what the worker said.
    """
    spec = pickle.dumps(calibrator.emptied(progress=False))
    key = hashlib.sha256(spec).hexdigest()
    shared, token = pool.share(spec), secrets.token_hex(8)
    pending: deque[tuple[_Task, Any]] = deque()
    unreadable: list[str] = []

    def take() -> None:
        task, handle = pending.popleft()
        made: Counted = pool.result(handle)
        if made.failed is not None:
            at, message = made.failed
            raise CalibrationError(f"Calibrator.collect_many: feed {task.first + at}, on a worker: {message}")
        if isinstance(batches, RowSamples):
            unreadable.extend(made.unreadable)
            check_unreadable(unreadable, batches.num_samples, batches.max_unreadable)
        if made.state is not None:
            calibrator.merge(calibrator.emptied().load_state_dict(made.state))
        for digest in made.digests if checkpoint else ():
            checkpoint.passed(digest)  # type: ignore[union-attr]
        for _ in range(made.feeds):
            step()

    try:
        for task in _tasks(batches, pool.workers, checkpoint.done if checkpoint else 0):
            handle = pool.submit(count, shared, task.batches, key, token, task.run, checkpoint is not None)
            pending.append((task, handle))
            if len(pending) >= _AHEAD * pool.workers:
                take()
        while pending:
            take()
    except BaseException:
        pool.cancel(handle for _, handle in pending)
        raise
    if isinstance(batches, RowSamples):
        batches.unreadable = tuple(unreadable)
        report_unreadable(unreadable, batches.num_samples)


def _tasks(batches: Iterable[Any], workers: int, done: int) -> Iterator[_Task]:
    """Feeds in runs of some; the first ``done`` are only read, to see that they are the same."""
    if isinstance(batches, RowSamples):  # a worker reads them where it is
        total = len(batches)
        size = max(1, min(_MOST_ROWS // max(1, batches.num_samples // max(1, total)), -(-total // workers)))
        borders = [*range(0, done, size), *range(done, total, size), total]
        for start, stop in pairwise(borders):
            yield _Task(batches.part(start, stop), start, start >= done)
        return
    group: list[Any] = []
    first = held = rows = 0
    for number, feeds in enumerate(batches):
        group.append(feeds)
        held += _bytes(feeds)
        rows += _rows(feeds)
        if rows >= _MOST_ROWS or held >= _MOST_BYTES or number + 1 == done:
            yield _Task(group, first, first >= done)
            group, first, held, rows = [], number + 1, 0, 0
    if group:
        yield _Task(group, first, first >= done)


def _arrays(feeds: Any) -> list[Any]:
    return list(feeds.values()) if hasattr(feeds, "values") else []  # what is no feeds, a worker refuses


def _bytes(feeds: Any) -> int:
    return sum(int(getattr(array, "nbytes", 0)) for array in _arrays(feeds))


def _rows(feeds: Any) -> int:
    """Samples in a feed, as its first array has them."""
    shape = next((getattr(array, "shape", ()) for array in _arrays(feeds)), ())
    return int(shape[0]) if shape else 1
