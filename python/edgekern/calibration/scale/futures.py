"""Pools of ``concurrent.futures``, and of whatever has their interface."""

from __future__ import annotations

import multiprocessing
import os
import tempfile
from collections.abc import Callable, Iterable
from concurrent.futures import BrokenExecutor, Executor, Future, ProcessPoolExecutor
from contextlib import suppress
from typing import Any

from edgekern.errors import CalibrationError
from edgekern.machine import get_num_threads, set_num_threads


class FuturesPool:
    """The caller's executor, or our own: ``workers`` new processes that share the threads this one may use."""

    def __init__(self, executor: Executor | None, workers: int | None) -> None:
        self._own = executor is None
        self._shared: list[str] = []
        self.workers = workers or int(getattr(executor, "_max_workers", 0) or 0) or 1
        self._executor = executor or ProcessPoolExecutor(
            self.workers,
            mp_context=multiprocessing.get_context("spawn"),  # a fork would copy locks that other threads hold
            initializer=set_num_threads,
            initargs=(max(1, get_num_threads() // self.workers),),
        )

    def share(self, value: bytes) -> bytes | str:
        """The path of a file where workers are processes: a worker that dies while much is sent to it stalls a pool."""
        if not isinstance(self._executor, ProcessPoolExecutor):
            return value
        with tempfile.NamedTemporaryFile(prefix="edgekern-", delete=False) as file:
            self._shared.append(file.name)
            file.write(value)
        return file.name

    def submit(self, function: Callable[..., Any], shared: bytes | str, *arguments: Any) -> Future[Any]:
        return self._executor.submit(function, shared, *arguments)

    def result(self, handle: Future[Any]) -> Any:
        try:
            return handle.result()
        except BrokenExecutor as error:
            raise CalibrationError(
                "Calibrator.collect_many: a worker process has ended before its work. A script starts processes under "
                "if __name__ == '__main__'; where it does, memory may be short: take fewer workers or smaller batches"
            ) from error

    def cancel(self, handles: Iterable[Future[Any]]) -> None:
        for handle in handles:
            handle.cancel()

    def close(self) -> None:
        if self._own:
            self._executor.shutdown(wait=True, cancel_futures=True)
        for name in self._shared:  # tasks of another's pool that still wait will not find it, and nobody wants them
            with suppress(OSError):
                os.unlink(name)
