"""The method "auto": of several ranges of a tensor, the one that the outputs of its readers suffer least from.

The float model runs on the samples that were kept. Each reader of a tensor is then run by itself, on the tensor as it
is and rounded to each candidate. What a candidate costs is the energy of the error at the reader's output over the
energy of that output, summed over readers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from edgekern.calibration.readers import Constants, Reader, readers_of, rounded

if TYPE_CHECKING:
    from edgekern.calibration.runner import FloatRunner

Array = npt.NDArray[Any]
Limits = tuple[float, float]
Options = dict[str, Any]

# A tensor of a large model has so many values that a sample or two show as much as eight do of a small one.
MOST_SAMPLES, MOST_VALUES = 8, 1 << 26

# Of equal ones the first: what has no reader to judge by is chosen for its own error.
CANDIDATES: dict[str, Options] = {
    "mse": {"method": "mse"},
    "max": {"method": "max"},
    "p-norm 3": {"method": "p-norm", "exponent": 3.0},
    "percentile 99.999": {"method": "percentile", "percentile": 99.999},
    "percentile 99.99": {"method": "percentile", "percentile": 99.99},
    "percentile 99.9": {"method": "percentile", "percentile": 99.9},
    "entropy": {"method": "entropy"},
}


def choose_by_outputs(
    runner: FloatRunner,
    samples: Sequence[Mapping[str, Array]],
    candidates: Mapping[str, Mapping[str, Limits]],
    num_bits: int,
    *,
    done: Callable[[], object] = lambda: None,
) -> tuple[dict[str, str], int]:
    """For each tensor, the name of the best of its candidates; and of how many samples.

    The last one is that with which the values of all tensors pass :data:`MOST_VALUES`.

    Parameters
    ----------
    samples : what the model is fed; float64 sums over them are taken in this order
    candidates : for each observed tensor, ranges by name
    done : called after each sample
    """
    constants = Constants(runner.model, runner.weights)
    fed = [name for sample in samples[:1] for name in sample]
    readers = readers_of(runner.model, constants, [*candidates, *fed])
    costs = {reader: _Cost() for name in candidates for reader in readers.get(name, ())}
    ran = values = 0
    for sample in samples:
        live, waiting = dict(sample), list(costs)
        for made in ({}, *([] if not waiting else runner.run(sample))):
            live |= made
            values += sum(array.size for array in made.values())
            ready = [r for r in waiting if r.tensor in live and all(name in live for name in r.others)]
            waiting = [reader for reader in waiting if reader not in ready]
            for reader in ready:
                costs[reader].add(reader, live, constants, candidates[reader.tensor], num_bits)
            wanted = {name for reader in waiting for name in (reader.tensor, *reader.others)}
            live = {name: array for name, array in live.items() if name in wanted}
        done()
        ran += 1
        if values > MOST_VALUES:
            break

    def cost(tensor: str, name: str) -> float:
        return sum(costs[reader].of(name) for reader in readers.get(tensor, ()))

    best = {
        tensor: min(limits, key=lambda name, tensor=tensor: cost(tensor, name))  # type: ignore[misc]
        for tensor, limits in candidates.items()
    }
    return best, ran


class _Cost:
    """What each candidate costs at the output of one reader."""

    def __init__(self) -> None:
        self._power = 0.0
        self._noise: dict[str, float] = {}

    def of(self, name: str) -> float:
        return self._noise.get(name, 0.0) / self._power if self._power else 0.0

    def add(
        self,
        reader: Reader,
        live: Mapping[str, Array],
        constants: Constants,
        candidates: Mapping[str, Limits],
        num_bits: int,
    ) -> None:
        x = live[reader.tensor]
        run = constants.run_of(reader, live)
        exact = run(x)
        self._power += _energy(exact)
        seen: dict[Limits, float] = {}
        for name, limits in candidates.items():
            if limits not in seen:
                made = run(rounded(x, *limits, num_bits))
                seen[limits] = _energy(np.subtract(made, exact, out=made))
            self._noise[name] = self._noise.get(name, 0.0) + seen[limits]


def _energy(x: Array) -> float:
    """Sum of squares of what is finite."""
    flat = x.reshape(-1)
    energy = float(np.einsum("i,i->", flat, flat, dtype=np.float64))
    if not np.isfinite(energy):
        flat = flat[np.isfinite(flat)].astype(np.float64)
        energy = float(np.einsum("i,i->", flat, flat))
    return energy
