"""A progress bar with the time left, on a terminal; nothing anywhere else."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console


@contextmanager
def progress_bar(
    description: str, total: int | None, *, enabled: bool, ticking: bool = True
) -> Iterator[Callable[[], None]]:
    """Yield the function to call after each step. Draws on standard error when that is a terminal and rich is there.

    Unless it is ``ticking``, no thread redraws the clock between steps.
    """
    console = _terminal() if enabled else None
    if console is None:
        yield lambda: None
        return
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    clock = (TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn())
    with Progress(*columns, *clock, console=console, auto_refresh=ticking, redirect_stdout=sys.stdout.isatty()) as bar:
        task = bar.add_task(description, total=total)
        yield lambda: bar.update(task, advance=1, refresh=not ticking)


def _terminal() -> Console | None:
    try:
        from rich.console import Console
    except ImportError:  # the base install has no rich
        return None
    console = Console(stderr=True)
    return console if console.is_terminal else None
