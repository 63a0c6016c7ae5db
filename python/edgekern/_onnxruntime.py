"""Waiting for onnxruntime in a way that can be ended: it runs graphs that turn for ever, and hears no Ctrl-C."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import Any

import numpy.typing as npt

_GRACE_S = 1.0  # onnxruntime looks for the end between nodes; one that takes longer is left behind


def run_to_end(
    session: Any, names: Sequence[str], feeds: Mapping[str, npt.NDArray[Any]], timeout_s: float | None
) -> list[Any]:
    """``session.run(names, feeds)`` on a thread of its own, while this one waits for it, for time, and for signals.

    Costs a thread's start, some 50 us.

    Raises
    ------
    TimeoutError
        When it has not ended after ``timeout_s``; None waits for ever. It is told to stop, as on KeyboardInterrupt.
    """
    import onnxruntime

    options = onnxruntime.RunOptions()
    results: list[Any] = []
    errors: list[BaseException] = []
    ended = threading.Event()

    def work() -> None:
        try:
            results.extend(session.run(list(names), dict(feeds), options))
        except BaseException as error:
            errors.append(error)
        finally:
            ended.set()

    try:
        threading.Thread(target=work, name="edgekern-host", daemon=True).start()
        if not ended.wait(timeout_s):
            raise TimeoutError(f"onnxruntime has not ended within {timeout_s} s")
    except BaseException:
        options.terminate = True
        ended.wait(_GRACE_S)
        raise
    if errors:
        raise errors.pop()
    return results
