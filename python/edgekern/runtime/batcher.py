"""Batcher: single requests of many threads, run together."""

from __future__ import annotations

import os
import threading
import time
import weakref
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from edgekern._arguments import number
from edgekern._arrays import Lent
from edgekern.errors import ArgumentTypeError, ArgumentValueError, EdgekernError
from edgekern.runtime.callers import Answer, Callers
from edgekern.runtime.profile import positive
from edgekern.runtime.rows import Rows, Tails
from edgekern.runtime.session import InferenceSession

Array = npt.NDArray[Any]
Feeds = dict[str, Array]

_DELAY_US = 1000.0
_LONGEST_DELAY_US = 60e6


class Batcher:
    """Stacks requests that come at about the same time, runs the session once for all of them, and hands rows back.

    Parameters
    ----------
    session : InferenceSession
        Whose inputs and outputs all have the rows of a batch along their first axis, no row depending on another:
        ``compile(batch=8)``, or of several sizes, ``compile(batch=(1, 2, 4, 8))``. Its arenas run at the same time.
    max_batch : int, optional
        Rows of a run at most; None is what the session, or the largest of its sizes, takes. A run of fewer rows than
        the session was compiled for takes the time of a whole one: the others are zeros.
    max_delay_us : float
        How long the first request of a run waits for others, in microseconds. Those that come while all arenas are
        busy do not wait any longer.

    Raises
    ------
    ArgumentTypeError, ArgumentValueError
        When an argument has the wrong type or value, or the session has no rows.

    Notes
    -----
    Requests run in the order in which they come, each with all of its rows in one run where they fit into one. The
    batcher has a thread for each arena of the session, from the first request on; they end with it. In a forked child
    it starts anew: what waits there is the parent's. A context manager: at the end it is closed.
    """

    def __init__(
        self, session: InferenceSession, max_batch: int | None = None, max_delay_us: float = _DELAY_US
    ) -> None:
        if not isinstance(session, InferenceSession):
            raise ArgumentTypeError(f"Batcher: session must be an InferenceSession, got {type(session).__name__}")
        self._rows = Rows(session)
        self._most = self._rows.count
        if max_batch is not None:
            positive("Batcher", "max_batch", max_batch)
            if self._rows.fixed and max_batch > self._rows.count:
                raise ArgumentValueError(
                    f"Batcher: max_batch must be at most the {self._rows.count} rows of a run of the session, got "
                    f"{max_batch}; compile it with batch={max_batch}"
                )
            self._most = int(max_batch)
        delay_us = number("Batcher", "max_delay_us", max_delay_us)
        if not 0 <= delay_us <= _LONGEST_DELAY_US:
            raise ArgumentValueError(
                f"Batcher: max_delay_us must be in [0, {_LONGEST_DELAY_US:.0f}], got {max_delay_us}"
            )
        self._delay_s = delay_us / 1e6
        self._session = session
        self._inputs = [node.name for node in session.get_inputs()]
        self._outputs = [node.name for node in session.get_outputs()]
        self._here = threading.local()
        self._callers = Callers(session.num_arenas)
        self._after_fork()
        _batchers.add(self)

    def _after_fork(self) -> None:
        self._callers.after_fork()
        self._arrived: SimpleQueue[_Request] = SimpleQueue()
        self._carried: list[_Request] = []  # one that found no place in the run before
        self._collecting = threading.Lock()
        self._woken: Future[list[Any]] | None = None
        self._staged: SimpleQueue[tuple[Tails, Feeds]] = SimpleQueue()  # memory for the inputs of runs

    def run(self, output_names: Sequence[str] | None, feeds: Mapping[str, Lent]) -> list[Array]:
        """Compute outputs of some rows, in a run with those of others.

        Parameters
        ----------
        output_names : as of :meth:`InferenceSession.run`
        feeds : an array per input name, all of the same number of rows, at least one; of the dtype and, behind the
            first axis, the shape that the session states. More than a run takes are several runs.

        Returns
        -------
        list of new arrays, of as many rows

        Raises
        ------
        ArgumentTypeError, ArgumentValueError
            When a name is unknown or missing, or an array has another dtype or shape; others know nothing of it.
        EdgekernError
            When the batcher is closed. And what the session raises, in every request of that run; but when it is a
            value of the feeds, in that request alone.
        """
        future = self.submit(output_names, feeds)
        try:
            return future.result()
        except BaseException:  # Ctrl-C: nobody waits for it now
            future.cancel()
            raise

    def submit(self, output_names: Sequence[str] | None, feeds: Mapping[str, Lent]) -> Future[list[Array]]:
        """The future of what :meth:`run` returns; what is wrong with the arguments is raised here.

        The arrays are the caller's again when it is done. While it waits, it can be cancelled.
        """
        names = self._session._wanted(output_names) if output_names else self._outputs
        arrays = dict(zip(self._inputs, self._session._ordered(feeds), strict=True))
        request = _Request(names, arrays, *self._rows.checked(arrays))
        if self._serving():  # a finalizer, or a callback, that this very thread would wait for
            self._answer([request])
            return request.future
        self._arrived.put(request)
        try:
            self._wake()
        except RuntimeError as error:
            raise EdgekernError("Batcher: it is closed, or Python ends, and it takes no request") from error
        return request.future

    def close(self) -> None:
        """Answer what has come, and take no more; the batcher's threads have ended then."""
        self._callers.close(wait=not self._serving())

    def __enter__(self) -> Batcher:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Batcher({self._session!r}, max_batch={self._most}, max_delay_us={self._delay_s * 1e6:g})"

    def _serving(self) -> bool:
        """Whether this thread is one of the batcher's own."""
        return getattr(self._here, "serving", False)

    def _wake(self) -> None:
        """See to it that a call of :meth:`_serve` begins after this."""
        if self._woken is None or self._woken.running() or self._woken.done():
            self._woken = self._callers.submit(self._serve)

    def _serve(self) -> list[Any]:
        """Answer all that has come."""
        self._here.serving = True
        try:
            while batch := self._collect():
                if self._carried or not self._arrived.empty():
                    with suppress(RuntimeError):  # it is being closed: this thread does all that is left
                        self._wake()  # another arena may be free
                self._answer(batch)
        finally:
            self._here.serving = False
        return []

    def _collect(self) -> list[_Request]:
        """The requests of a run, in the order in which they came; none: there are no more."""
        batch: list[_Request] = []
        rows, until = 0, 0.0
        with self._collecting:
            while rows < self._most:
                try:
                    request = self._carried.pop() if self._carried else self._next(until if batch else 0.0)
                except Empty:
                    break
                if batch and (rows + request.rows > self._most or request.tails != batch[0].tails):
                    self._carried.append(request)
                    break
                if not request.future.set_running_or_notify_cancel():
                    continue
                until = until or request.came + self._delay_s
                batch.append(request)
                rows += request.rows
        return batch

    def _next(self, until: float) -> _Request:
        wait_s = until - time.monotonic()
        return self._arrived.get(timeout=wait_s) if wait_s > 0 else self._arrived.get_nowait()

    def _answer(self, batch: list[_Request]) -> None:
        try:
            results = self._computed(batch)
        except ArgumentValueError as error:
            if len(batch) > 1:  # a value of one of them
                for request in batch:
                    self._answer([request])
            else:
                batch[0].future.set_exception(error)
        except BaseException as error:
            for request in batch:
                request.future.set_exception(error)
        else:
            for request, result in zip(batch, results, strict=True):
                request.future.set_result(result)

    def _computed(self, batch: list[_Request]) -> list[list[Array]]:
        """What each request asks for."""
        names = [name for name in self._outputs if any(name in request.names for request in batch)]
        total = sum(request.rows for request in batch)
        size = self._rows.count if self._rows.fixed else total
        if len(batch) == 1 and total == size:  # nothing to stack
            return [self._session.run(batch[0].names, batch[0].feeds)]
        found: list[dict[str, list[Array]]] = [{name: [] for name in request.names} for request in batch]
        staged = self._memory(batch[0])
        try:
            for window in _windows([request.rows for request in batch], size):
                feeds = {name: array[:size] for name, array in staged.items()}
                for part in window:
                    for name, array in batch[part.request].feeds.items():
                        feeds[name][part.at] = array[part.rows]
                for array in feeds.values():
                    array[window[-1].at.stop :] = 0
                for name, output in zip(names, self._session.run(names, feeds), strict=True):
                    for part in window:
                        if name in found[part.request]:
                            found[part.request][name].append(output[part.at])
        finally:
            self._staged.put((batch[0].tails, staged))
        return [
            [np.concatenate(parts[name]) for name in request.names] for request, parts in zip(batch, found, strict=True)
        ]

    def _memory(self, like: _Request) -> Feeds:
        """For the inputs of a run: new pages for each would take as long as filling them."""
        with suppress(Empty):
            tails, staged = self._staged.get_nowait()
            if tails == like.tails:
                return staged
        rows = self._rows.count if self._rows.fixed else self._most
        return {name: np.empty((rows, *array.shape[1:]), array.dtype) for name, array in like.feeds.items()}


class _Request:
    def __init__(self, names: Sequence[str], feeds: Feeds, rows: int, tails: Tails) -> None:
        self.names, self.feeds, self.rows, self.tails = names, feeds, rows, tails
        self.came = time.monotonic()
        self.future: Future[list[Array]] = Answer()


@dataclass(frozen=True)
class _Part:
    """Rows of a request, and where they are in a run."""

    request: int
    rows: slice
    at: slice


def _windows(counts: Sequence[int], size: int) -> Iterator[list[_Part]]:
    """All rows of requests of so many each, in order, in runs of ``size`` rows."""
    window: list[_Part] = []
    filled = 0
    for request, count in enumerate(counts):
        done = 0
        while done < count:
            more = min(count - done, size - filled)
            window.append(_Part(request, slice(done, done + more), slice(filled, filled + more)))
            done, filled = done + more, filled + more
            if filled == size:
                yield window
                window, filled = [], 0
    if window:
        yield window


_batchers: weakref.WeakSet[Batcher] = weakref.WeakSet()


def _after_fork() -> None:
    for batcher in _batchers:
        batcher._after_fork()


os.register_at_fork(after_in_child=_after_fork)
