"""Callers: threads of a session's own, which run it for callers that do not wait."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any

from edgekern.errors import ArgumentTypeError

Results = list[Any]
Callback = Callable[[Results, Any, str], object]
_CANCELLED = "run_async: the call was cancelled before it ran"


class Callers:
    """Threads that are made when the first call comes, and end when this object goes and nothing waits any more.

    Parameters
    ----------
    threads : how many there are at most
    """

    def __init__(self, threads: int) -> None:
        self._threads = threads
        self._pools: dict[None, ThreadPoolExecutor] = {}
        self._closed = False

    def after_fork(self) -> None:
        """The threads are the parent's: the next call makes new ones."""
        if not self._closed:
            self._pools = {}

    def close(self, *, wait: bool) -> None:
        """Let what was submitted end, and take no more."""
        self._closed = True
        pools, self._pools = self._pools, {None: _closed_pool()}
        for pool in pools.values():
            pool.shutdown(wait=wait)

    def submit(
        self, call: Callable[[], Results], callback: Callback | None = None, user_data: object = None
    ) -> Future[Results]:
        """The future of ``call()``; ``callback(results, user_data, error)``, as onnxruntime has it, when it is done.

        Raises
        ------
        RuntimeError
            When it is closed, or the interpreter ends.
        """
        if callback is not None and not callable(callback):
            raise ArgumentTypeError(f"run_async: callback must be a function or None, got {type(callback).__name__}")
        pool = self._pools.get(None)
        if pool is None:  # of two callers that come here at once, both get the same
            pool = self._pools.setdefault(None, ThreadPoolExecutor(self._threads, "edgekern"))
        future = Answer()
        if callback is None:
            pool.submit(_answer, future, call)
            return future
        pool.submit(_answer, future, partial(_telling, call, callback, user_data))
        future.add_done_callback(lambda done: _tell(callback, [], user_data, _CANCELLED) if done.cancelled() else None)
        return future


class Answer(Future[Results]):
    """A future whose callbacks cannot end the thread that answers it: it is for others, too."""

    def add_done_callback(self, fn: Callable[[Future[Results]], object]) -> None:
        """As of every future. What ends a thread (SystemExit) is logged like all else that a callback raises, where it
        is called on another thread than that which adds it."""
        super().add_done_callback(fn if self.done() else partial(_called_back, fn))


def _called_back(fn: Callable[[Future[Results]], object], future: Future[Results]) -> None:
    try:
        fn(future)
    except Exception:
        raise  # which the future logs
    except BaseException:
        logging.getLogger("concurrent.futures").exception("exception calling callback for %r", future)


def _answer(future: Future[Results] | None, call: Callable[[], Results]) -> None:
    assert future is not None
    if not future.set_running_or_notify_cancel():
        return
    try:
        results = call()
    except BaseException as error:
        future.set_exception(error)
        future = None  # the error's frames hold it
    else:
        future.set_result(results)


def _telling(call: Callable[[], Results], callback: Callback, user_data: object) -> Results:
    """Call back on the thread that has run it, never on the caller's, which may hold what the callback waits for."""
    try:
        results = call()
    except BaseException as error:
        _tell(callback, [], user_data, str(error) or type(error).__name__)
        raise
    _tell(callback, results, user_data, "")
    return results


def _tell(callback: Callback, results: Results, user_data: object, error: str) -> None:
    try:
        callback(results, user_data, error)
    except BaseException:  # nobody waits for it, and the thread is for others, too
        traceback.print_exc()


def _closed_pool() -> ThreadPoolExecutor:
    pool = ThreadPoolExecutor(1)
    pool.shutdown()
    return pool
