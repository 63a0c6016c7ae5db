"""The workers of a Ray cluster, through the module ``ray`` once ``ray.init`` was called."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any


class RayPool:
    """``executor=ray``; its workers need edgekern[toolkit] of the same version."""

    def __init__(self, ray: Any, workers: int | None) -> None:
        self._ray = ray
        self.workers = workers or max(1, int(ray.cluster_resources().get("CPU", 1)))

    def share(self, value: bytes) -> Any:
        return self._ray.put(value)

    def submit(self, function: Callable[..., Any], shared: Any, *arguments: Any) -> Any:
        return self._ray.remote(function).remote(shared, *arguments)

    def result(self, handle: Any) -> Any:
        return self._ray.get(handle)

    def cancel(self, handles: Iterable[Any]) -> None:
        for handle in handles:
            self._ray.cancel(handle)

    def close(self) -> None:
        """The cluster is the caller's."""
