"""What a run is given: names of outputs, arrays by name, and where to write."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from edgekern._arrays import Lent, as_array, unnamed, written_array
from edgekern.errors import ArgumentTypeError, ArgumentValueError

Array = npt.NDArray[Any]
Feeds = Mapping[str, Lent]


def wanted_names(output_names: Any, outputs: Collection[str]) -> list[str]:
    """Names that are all of outputs; every output where there is none, as onnxruntime has it."""
    if isinstance(output_names, str):
        raise ArgumentTypeError(f"run: output_names must be a list of names, got the string {output_names!r}")
    if not isinstance(output_names, Iterable):
        raise ArgumentTypeError(f"run: output_names must be a list of names, got {type(output_names).__name__}")
    names = list(output_names) or list(outputs)
    for name in names:
        if not isinstance(name, str):
            raise ArgumentTypeError(f"run: output_names must be a list of names, got {type(name).__name__} in it")
        if name not in outputs:
            raise ArgumentValueError(f"run: there is no output {name!r}; the outputs are {list(outputs)}")
    return names


def ordered(feeds: Feeds, inputs: Mapping[str, Array]) -> list[Array]:
    """The arrays in the order of the inputs."""
    if type(feeds) is not dict or feeds.keys() != inputs.keys():
        _check_names(feeds, inputs)
    return [
        given if type(given := feeds[name]) is np.ndarray else as_array("run", f"input {name!r}", given)
        for name in inputs
    ]


def _check_names(feeds: Feeds, inputs: Collection[str]) -> None:
    if not isinstance(feeds, Mapping):
        raise unnamed("run", "input_feed", feeds, list(inputs))
    for name in feeds:
        if name not in inputs:
            raise ArgumentValueError(f"run: there is no input {name!r}; the inputs are {list(inputs)}")
    for name in inputs:
        if name not in feeds:
            raise ArgumentValueError(f"run: input_feed lacks the input {name!r}; the inputs are {list(inputs)}")


def targets_of(out: Sequence[Lent], names: Sequence[str]) -> list[Array]:
    """Where to write: an array, or a view of one of another library, for each name."""
    if not isinstance(out, (list, tuple)) or len(out) != len(names):
        count = len(out) if isinstance(out, (list, tuple)) else type(out).__name__
        raise ArgumentTypeError(f"run: out must be a list of {len(names)} arrays, one for each output, got {count}")
    return [written_array("run", f"out for {name!r}", array) for name, array in zip(names, out, strict=True)]
