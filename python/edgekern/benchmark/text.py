"""Columns of text, as every command prints them."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

_WIDTH = 100


def aligned(rows: Sequence[Sequence[str]], sides: str) -> list[str]:
    """Lines of rows whose columns are as wide as their widest cell; ``sides`` has a < or > for each column, or more."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(f"{cell:{side}{width}}" for cell, side, width in zip(row, sides, widths, strict=False)).rstrip()
        for row in rows
    ]


def wrapped(text: str, *, bullet: str = "") -> list[str]:
    """Lines of a sentence, which stand below each other behind the bullet."""
    return textwrap.wrap(text, _WIDTH, initial_indent=bullet, subsequent_indent=" " * len(bullet))


def megabytes(count: float) -> str:
    return f"{count / 1e6:.2f}" if count < 1e7 else f"{count / 1e6:.1f}"


def milliseconds(us: float) -> str:
    """Four digits or so."""
    ms = us / 1e3
    return f"{ms:.4f}" if ms < 1 else f"{ms:.3f}" if ms < 10 else f"{ms:.2f}" if ms < 100 else f"{ms:.1f}"


def plural(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"
