"""edgekern's threads under threadpoolctl, for programs that limit all their libraries in one place."""

from __future__ import annotations

from functools import cache

from edgekern import _core

__all__ = ["register_threadpoolctl"]


@cache
def register_threadpoolctl() -> None:
    """Make threadpoolctl see and limit edgekern's threads, as ``user_api="edgekern"``.

    Needs the package threadpoolctl. A second call does nothing.

    Raises
    ------
    ModuleNotFoundError
        threadpoolctl is not installed.

    Examples
    --------
    >>> edgekern.register_threadpoolctl()
    >>> with threadpoolctl.threadpool_limits(1):
    ...     edgekern.matmul_integer(a, b)
    """
    import threadpoolctl

    class Controller(threadpoolctl.LibController):  # type: ignore[misc]
        user_api = internal_api = "edgekern"
        filename_prefixes = ("libedgekern",)
        check_symbols = ("ek_get_num_threads", "ek_set_num_threads")

        def get_num_threads(self) -> int:
            return int(self.dynlib.ek_get_num_threads())

        def set_num_threads(self, num_threads: int) -> None:
            self.dynlib.ek_set_num_threads(num_threads)

        def get_version(self) -> str:
            return _core.__version__

    threadpoolctl.register(Controller)
