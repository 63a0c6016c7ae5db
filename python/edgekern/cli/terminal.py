"""Text for a terminal, and a bar beside it while something is timed."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext


def printable(text: str) -> str:
    """Names in a stranger's file may hold what a terminal takes for commands, or what it cannot print."""
    return "".join(c if c.isprintable() or c == "\n" else repr(c)[1:-1] for c in text)


def quiet_bar(description: str, total: int) -> AbstractContextManager[Callable[[], None]]:
    """A progress bar whose clock no thread redraws while others are timed."""
    try:
        from edgekern.calibration.progress import progress_bar
    except ModuleNotFoundError:  # the base install has no rich
        return nullcontext(lambda: None)
    return progress_bar(description, total, enabled=True, ticking=False)
