"""Pools of ``concurrent.futures``, and of whatever has their interface."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterable
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from typing import Any

from edgekern.machine import get_num_threads, set_num_threads


class FuturesPool:
    """The caller's executor, or our own: ``workers`` new processes that share the threads this one may use."""

    def __init__(self, executor: Executor | None, workers: int | None) -> None:
        self._own = executor is None
        self.workers = workers or int(getattr(executor, "_max_workers", 0) or 0) or 1
        self._executor = executor or ProcessPoolExecutor(
            self.workers,
            mp_context=multiprocessing.get_context("spawn"),  # a fork would copy locks that other threads hold
            initializer=set_num_threads,
            initargs=(max(1, get_num_threads() // self.workers),),
        )

    def share(self, value: bytes) -> bytes:
        return value

    def submit(self, function: Callable[..., Any], shared: bytes, *arguments: Any) -> Future[Any]:
        return self._executor.submit(function, shared, *arguments)

    def result(self, handle: Future[Any]) -> Any:
        return handle.result()

    def cancel(self, handles: Iterable[Future[Any]]) -> None:
        for handle in handles:
            handle.cancel()

    def close(self) -> None:
        if self._own:
            self._executor.shutdown(wait=True, cancel_futures=True)
