"""What calibration asks of a pool of workers."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Protocol


class Pool(Protocol):
    """Workers that run functions; an adapter for one library each.

    Attributes
    ----------
    workers : int. How many functions run at a time.
    """

    workers: int

    def share(self, value: bytes) -> Any:
        """Bring a value to all workers once; :meth:`submit` takes what is returned in its place."""
        ...

    def submit(self, function: Callable[..., Any], shared: Any, *arguments: Any) -> Any:
        """Start a function on some worker; what is returned stands for its result."""
        ...

    def result(self, handle: Any) -> Any:
        """Wait for a result."""
        ...

    def cancel(self, handles: Iterable[Any]) -> None:
        """Give up functions that have not begun; those that run may end."""
        ...

    def close(self) -> None:
        """End what this adapter itself has started."""
        ...
