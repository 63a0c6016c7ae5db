"""What a caller feeds: one array for each input of the model, of its type and shape."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from edgekern._arrays import Lent, lent, plain, unnamed
from edgekern.errors import ArgumentTypeError, ArgumentValueError

Feeds = Mapping[str, Lent]

_INPUT_DTYPES = {
    "tensor(float)": "float32",
    "tensor(float16)": "float16",
    "tensor(bfloat16)": "bfloat16",
    "tensor(double)": "float64",
    "tensor(bool)": "bool",
    **{f"tensor({sign}int{bits})": f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)},
}


def numpy_type(name: str) -> np.dtype[Any] | None:
    """Of onnxruntime's name for a type; None where NumPy has none."""
    try:
        return np.dtype(_INPUT_DTYPES[name])
    except (KeyError, TypeError):  # bfloat16, unless its package is loaded
        return None


def check_feeds(
    function: str, feeds: Feeds, inputs: Sequence[Any], unranked: Collection[str]
) -> dict[str, npt.NDArray[Any]]:
    """The arrays of a batch by name, contiguous.

    ``inputs`` is onnxruntime's description of what the model takes; those in ``unranked`` take any shape.
    """
    names = [value.name for value in inputs]
    if not isinstance(feeds, Mapping):
        raise unnamed(function, "feeds", feeds, names)
    for name in feeds:
        if name not in names:
            raise ArgumentValueError(f"{function}: feeds has {name!r}, but the model's inputs are {names}")
    arrays: dict[str, npt.NDArray[Any]] = {}
    for value in inputs:
        if value.name not in feeds:
            raise ArgumentValueError(f"{function}: feeds lacks {value.name!r}; the model's inputs are {names}")
        array = _array(function, f"feeds[{value.name!r}]", feeds[value.name])
        wanted = _INPUT_DTYPES.get(value.type)
        if wanted is not None and array.dtype != wanted:
            raise ArgumentTypeError(
                f"{function}: feeds[{value.name!r}] must be {wanted}, got {array.dtype}; convert it with astype"
            )
        fits = array.ndim == len(value.shape) and all(
            not isinstance(want, int) or have == want for have, want in zip(array.shape, value.shape, strict=True)
        )
        if not fits and value.name not in unranked:
            shape = "(" + ", ".join(str(d) if d is not None else "?" for d in value.shape) + ")"
            raise ArgumentValueError(
                f"{function}: feeds[{value.name!r}] has shape {array.shape}, but the model takes {shape}"
            )
        arrays[value.name] = plain(function, f"feeds[{value.name!r}]", array)
    return arrays


def _array(function: str, argument: str, given: object) -> npt.NDArray[Any]:
    try:
        return np.asarray(lent(function, argument, given))
    except ValueError as error:  # lists of different lengths
        raise ArgumentTypeError(f"{function}: {argument} must be an array, got {type(given).__name__}") from error
