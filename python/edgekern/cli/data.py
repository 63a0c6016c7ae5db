"""Sizes of dimensions, as a command line gives them."""

from collections.abc import Sequence
from typing import Any

from edgekern.errors import ArgumentValueError


def read_shapes(function: str, given: Sequence[str] | None) -> dict[str, Any] | None:
    """``["input_ids=1,16|128", "sequence=128"]`` as a mapping; a ``?`` leaves a size to the model, and a ``|`` stands
    between several.

    Raises
    ------
    ArgumentValueError
        Something is not of that form.
    """
    shapes: dict[str, Any] = {}
    for text in given or ():
        name, _, sizes = text.rpartition("=")
        parts = [part.strip() for part in sizes.split(",")]
        if not name or not all(part == "?" or all(map(str.isdecimal, part.split("|"))) for part in parts):
            raise ArgumentValueError(f"{function}: --shape takes NAME=SIZE or NAME=SIZE,SIZE,..., got {text!r}")
        read = [None if part == "?" else [int(size) for size in part.split("|")] for part in parts]
        entries = tuple(sizes[0] if sizes is not None and len(sizes) == 1 else sizes for sizes in read)
        shapes[name] = entries[0] if len(entries) == 1 and entries[0] is not None else entries
    return shapes or None


def read_sizes(function: str, given: str) -> int | list[int]:
    """``"8"``, or ``"1,2,4,8"`` for several.

    Raises
    ------
    ArgumentValueError
        Something is not of that form, or no positive number.
    """
    parts = [part.strip() for part in given.split(",")]
    if not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise ArgumentValueError(f"{function}: --batch takes a size, or several as 1,2,4,8, got {given!r}")
    return int(parts[0]) if len(parts) == 1 else [int(part) for part in parts]


def read_pads(function: str, given: Sequence[str] | None) -> dict[str, float] | None:
    """``["attention_mask=0"]`` as a mapping.

    Raises
    ------
    ArgumentValueError
        Something is not of that form.
    """
    pads: dict[str, float] = {}
    for text in given or ():
        name, _, value = text.rpartition("=")
        try:
            pads[name] = int(value) if value.lstrip("-").isdecimal() else float(value)
        except ValueError:
            name = ""
        if not name:
            raise ArgumentValueError(f"{function}: --pad takes NAME=NUMBER, got {text!r}")
    return pads or None
