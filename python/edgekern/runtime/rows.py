"""Rows: what a session takes along the first axis of all that goes in and out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from edgekern.errors import ArgumentTypeError, ArgumentValueError
from edgekern.runtime.session import InferenceSession

Array = npt.NDArray[Any]
Tails = tuple[tuple[int, ...], ...]  # shapes behind the first axis, one for each input


class Rows:
    """How many rows a run of a session takes.

    Parameters
    ----------
    session : whose inputs and outputs all have them along their first axis

    Attributes
    ----------
    count : of a run; of one on the largest of its programs, where it has several sizes
    fixed : whether a run takes exactly so many; else it takes any number

    Raises
    ------
    ArgumentValueError
        When the inputs and outputs have no such axis in common, or one row may depend on another.
    """

    def __init__(self, session: InferenceSession) -> None:
        self._session = session
        self._inputs = {node.name: node.shape for node in session.get_inputs()}
        self._dtypes = {info.name: info.dtype for info in session.program.inputs}
        shapes = self._inputs | {node.name: node.shape for node in session.get_outputs()}
        first = {shape[0] if shape else 0 for shape in shapes.values()}
        found = first.pop() if len(first) == 1 else 0
        if isinstance(found, str):
            assert session.program.buckets is not None
            [dimension] = [one for one in session.program.buckets.dimensions if one.name == found]
            self.count, self.fixed = dimension.sizes[-1] if dimension.rows else 0, False
        else:
            self.count, self.fixed = found, True
        if not self.count:
            raise ArgumentValueError(
                "Batcher: all inputs and outputs of session must have the same rows, at least one and independent of "
                f"each other, along their first axis, got {shapes}"
            )

    def checked(self, arrays: Mapping[str, Array]) -> tuple[int, Tails]:
        """The rows of a request, and what its arrays must have in common with those of others to lie side by side.

        Raises
        ------
        ArgumentTypeError, ArgumentValueError
            When an array has another dtype or shape, or two have other numbers of rows.
        """
        for name, array in arrays.items():
            if array.dtype != (dtype := self._dtypes[name]):
                raise ArgumentTypeError(
                    f"run: input {name!r} must be {dtype}, got {array.dtype}; convert it with astype"
                )
            wanted = self._inputs[name][1:]
            fits = array.ndim == 1 + len(wanted) and len(array) > 0
            if not fits or any(
                isinstance(size, int) and size != given for size, given in zip(wanted, array.shape[1:], strict=True)
            ):
                shape = ", ".join(["rows", *map(str, wanted)])
                raise ArgumentValueError(f"run: input {name!r} must have shape ({shape}), got {array.shape}")
        counts = {name: len(array) for name, array in arrays.items()}
        if len(set(counts.values())) != 1:
            raise ArgumentValueError(f"run: all inputs must have the same number of rows, got {counts}")
        self._check_sizes(arrays)
        return next(iter(counts.values())), tuple(array.shape[1:] for array in arrays.values())

    def _check_sizes(self, arrays: Mapping[str, Array]) -> None:
        """Of dimensions that the program has in several sizes."""
        sized = self._session._sized
        if sized is None:
            return
        given = list(arrays.values())
        if self.fixed:  # as many as a run has
            given = [np.broadcast_to(array[:1], (self.count, *array.shape[1:])) for array in given]
        sized.pieces(sized.sizes(given))
