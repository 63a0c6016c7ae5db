"""The workers of a Dask cluster, through its client."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any


class DaskPool:
    """A ``distributed.Client``; its workers need edgekern[toolkit] of the same version."""

    def __init__(self, client: Any, workers: int | None) -> None:
        self._client = client
        self.workers = workers or max(1, sum(client.ncores().values()))

    def share(self, value: bytes) -> Any:
        return self._client.scatter(value, broadcast=True)

    def submit(self, function: Callable[..., Any], shared: Any, *arguments: Any) -> Any:
        first, *rest = arguments  # the data: scattered, for arguments of a task are meant to be small
        sent = self._client.scatter([first], hash=False)[0]
        return self._client.submit(function, shared, sent, *rest, pure=False)

    def result(self, handle: Any) -> Any:
        return handle.result()

    def cancel(self, handles: Iterable[Any]) -> None:
        self._client.cancel(list(handles))

    def close(self) -> None:
        """The cluster is the caller's."""
