"""What a worker does: run the float model on some feeds, and send back what was counted."""

from __future__ import annotations

import pickle
import threading
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekern.calibration.checkpoint import digest_of
from edgekern.errors import EdgekernError

if TYPE_CHECKING:
    from edgekern.calibration.counting import Counting

# Calibrations that an interrupt of this process has ended: tasks of theirs that were sent already have nothing to do.
_ended: set[str] = set()
_opened = threading.local()  # the model of the last calibration, one a thread: opening it takes longer than a task


@dataclass
class Counted:
    """Of one task.

    Attributes
    ----------
    state : of a calibrator that has seen the task's feeds alone; None where they were only read
    feeds : how many there were
    digests : of each feed, where they were asked for
    unreadable : damaged samples that were left out
    failed : the feed that failed, from 0, and its message
    """

    state: dict[str, Any] | None = None
    feeds: int = 0
    digests: list[bytes] = field(default_factory=list)
    unreadable: tuple[str, ...] = ()
    failed: tuple[int, str] | None = None


def count(spec: bytes | str, batches: Iterable[Any], key: str, token: str, run: bool, digests: bool) -> Counted:
    """Count feeds on a model.

    Parameters
    ----------
    spec : a pickled calibrator that has seen nothing, or the path of a file with it
    batches : feeds
    key : of ``spec``, to know it again
    token : of the calibration that this is a task of
    run : whether the model runs; else the feeds are only read
    digests : whether to return their digests
    """
    made = Counted()
    if token in _ended:
        return Counted(failed=(0, "it was interrupted"))
    try:
        calibrator = _calibrator(spec, key).emptied() if run else None
        for feeds in batches:
            if digests:
                made.digests.append(digest_of(feeds))
            if calibrator is not None:
                calibrator.collect(feeds)
            made.feeds += 1
            del feeds
    except Exception as error:  # each library has its own way with a worker's errors, so a message travels
        text = str(error) if isinstance(error, EdgekernError) else f"{type(error).__name__}: {error}"
        made.failed = made.feeds, text
        return made
    except KeyboardInterrupt:
        _ended.add(token)
        raise
    made.unreadable = tuple(getattr(batches, "unreadable", ()))
    made.state = None if calibrator is None else calibrator.state_dict()
    return made


def _calibrator(spec: bytes | str, key: str) -> Counting:
    if getattr(_opened, "key", None) != key:
        _opened.key = _opened.calibrator = None  # memory holds one model, not two
        _opened.calibrator, _opened.key = pickle.loads(_read(spec)), key
    opened: Counting = _opened.calibrator
    return opened


def _read(spec: bytes | str) -> bytes:
    return spec if isinstance(spec, bytes) else Path(spec).read_bytes()
