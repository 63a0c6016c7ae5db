"""Warnings that point at the line that called edgekern."""

from __future__ import annotations

import sys
import warnings

from edgekern.errors import EdgekernWarning


def warn_caller(message: str, category: type[EdgekernWarning] = EdgekernWarning) -> None:
    """A warning, at the line outside of the package that led here."""
    frame, level = sys._getframe(1), 2
    while frame.f_back is not None and str(frame.f_globals.get("__name__")).partition(".")[0] == "edgekern":
        frame, level = frame.f_back, level + 1
    warnings.warn(message, category, stacklevel=level)
