"""Binding: arrays of a caller that are checked once and run on many times."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from edgekern._arrays import Lent, unnamed, written_array
from edgekern.errors import ArgumentValueError

if TYPE_CHECKING:
    from edgekern.runtime.runner import Runner

Array = npt.NDArray[Any]


class Binding:
    """Arrays that a session reads and writes, without a look at them in each run.

    Made by :meth:`InferenceSession.bind`. It keeps them alive, and with them what lends their memory: a bytearray
    cannot be resized, and an mmap not be closed, as long as it is there. What an array holds when :meth:`run` is called
    is what the run reads. Threads that run one binding share its arrays, and take care of that themselves.

    Attributes
    ----------
    inputs, outputs : mapping of names to the arrays, or to views of what was given
    """

    inputs: Mapping[str, Array]
    outputs: Mapping[str, Array]

    def __init__(
        self,
        runner: Runner,
        on_runner: Callable[[Callable[[Runner], object]], None],
        inputs: Mapping[str, Lent | None] | None,
        outputs: Mapping[str, Lent | None] | None,
    ) -> None:
        self.inputs = _bound("input", inputs, runner.inputs)
        self.outputs = _bound("output", outputs, runner.outputs)
        for name in runner.inputs:
            if name not in self.inputs:
                raise ArgumentValueError(f"bind: inputs lack {name!r}; the inputs are {list(runner.inputs)}")
        arrays = [self.inputs[name] for name in runner.inputs]
        self._call = runner.bind(arrays, [self.outputs.get(name) for name in runner.outputs])
        self._on_runner = on_runner

    def run(self) -> Mapping[str, Array]:
        """Compute what ``outputs`` hold from what ``inputs`` hold.

        Returns
        -------
        ``outputs``

        Raises
        ------
        ArgumentValueError, HostTimeoutError
            As :meth:`InferenceSession.run`, of values and of time.
        """
        self._on_runner(self._call)
        return self.outputs

    def __repr__(self) -> str:
        return f"Binding({', '.join(self.inputs)} -> {', '.join(self.outputs)})"


class SizedBinding:
    """Arrays of sizes that no program has: each run is filled up or cut, and copies what that takes.

    Attributes
    ----------
    inputs, outputs : mapping of names to arrays
    """

    def __init__(self, run: Callable[..., object], inputs: Mapping[str, Array], outputs: Mapping[str, Array]) -> None:
        self._call = run
        self.inputs, self.outputs = MappingProxyType(dict(inputs)), MappingProxyType(dict(outputs))

    def run(self) -> Mapping[str, Array]:
        """As of :class:`Binding`."""
        self._call(list(self.outputs), self.inputs, out=list(self.outputs.values()))
        return self.outputs


def _bound(what: str, given: Mapping[str, Lent | None] | None, places: Mapping[str, Array]) -> Mapping[str, Array]:
    """Arrays by name; new ones, of zeros, for None."""
    if given is None:
        given = dict.fromkeys(places)
    if not isinstance(given, Mapping):
        raise unnamed("bind", f"{what}s", given, list(places))
    for name in given:
        if name not in places:
            raise ArgumentValueError(f"bind: there is no {what} {name!r}; the {what}s are {list(places)}")
    return MappingProxyType(
        {
            name: np.zeros_like(places[name]) if value is None else _lent(f"{what} {name!r}", value, places[name])
            for name, value in given.items()
        }
    )


def _lent(argument: str, value: Lent, place: Array) -> Array:
    """The array, or a view; plain bytes (a bytearray, an mmap) are those of the elements."""
    array = written_array("bind", argument, value)
    if isinstance(value, np.ndarray) or hasattr(value, "dtype") or array.dtype != np.uint8 or array.ndim != 1:
        return array
    if place.dtype == np.uint8 and array.shape == place.shape:
        return array
    if array.nbytes != place.nbytes:
        raise ArgumentValueError(
            f"bind: {argument} must have {place.nbytes} bytes, {place.dtype} of shape {place.shape}, got {array.nbytes}"
        )
    if not array.flags.c_contiguous:
        raise ArgumentValueError(f"bind: {argument} must be C-contiguous, got bytes with gaps between them")
    return array.view(place.dtype).reshape(place.shape)
