"""Numbers on which a program is tried."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from edgekern.artifact import TensorInfo
from edgekern.artifact.buckets import Buckets

Array = npt.NDArray[Any]

_KINDS = ("normal", "negative", "positive", "small", "wide")


@dataclass(frozen=True)
class Draw:
    """How the numbers of a run are drawn.

    Attributes
    ----------
    kind : of floats: "normal", ...
    seed : of the generator; an even one makes whole numbers 1, an odd one 0 and 1
    masks : inputs of floats that may be masks, and get 0 and 1 as whole numbers do
    hint : what to say where the results differ
    """

    kind: str
    seed: int
    masks: frozenset[str]
    hint: str = ""


def draws(inputs: Sequence[TensorInfo], buckets: Buckets, *, insisted: bool = False) -> Iterator[Draw]:
    """All that is tried. Floats of which the dimensions are all that there is may be a mask: they are drawn as one, and
    then as any others, but where the caller has said what fills them up."""
    bare = [info for info in inputs if info.dtype.kind == "f" and _is_bare(info, buckets)]
    alone = len([info for info in inputs if buckets.inputs.get(info.name)]) == 1  # with nothing to mask
    masks = frozenset[str]() if alone else frozenset(info.name for info in bare)
    told = frozenset(masks & buckets.pads.keys()) if insisted else frozenset[str]()
    for seed, kind in enumerate(_KINDS):
        yield Draw(kind, seed, masks)
    for seed, kind in enumerate(_KINDS if masks > told else ()):
        names = ", ".join(f"'{name}'" for name in sorted(masks - told))
        yield Draw(kind, seed, told, f"; if {names} is a mask of 0 and 1, give its pad")


def all_feeds(inputs: Sequence[TensorInfo], buckets: Buckets) -> Iterator[dict[str, Array]]:
    """Feeds of every draw, on inputs without a range."""
    for draw in draws(inputs, buckets):
        yield feeds_of(inputs, draw, {}, buckets)


def _is_bare(info: TensorInfo, buckets: Buckets) -> bool:
    axes = {axis.axis for axis in buckets.inputs.get(info.name, ())}
    return bool(axes) and all(size == 1 for axis, size in enumerate(info.shape) if axis not in axes)


def feeds_of(
    inputs: Sequence[TensorInfo], draw: Draw, reaches: Mapping[str, float], buckets: Buckets
) -> dict[str, Array]:
    """The numbers. ``reaches``: how large floats are, where an input has a range."""
    rng = np.random.default_rng(draw.seed)
    return {
        info.name: _drawn(rng, info, draw, reaches.get(info.name, 1.0), buckets.pads.get(info.name, 0))
        for info in inputs
    }


def _drawn(rng: np.random.Generator, info: TensorInfo, draw: Draw, reach: float, pad: float) -> Array:
    if info.dtype.kind in "iu" and info.dtype.itemsize == 1:
        return rng.integers(0, 256, info.shape, np.uint8).view(info.dtype)
    if info.dtype.kind not in "iub" and info.name not in draw.masks:
        x = rng.normal(0, 1, info.shape)
        x = {"negative": -np.abs(x), "positive": np.abs(x), "small": x / 100, "wide": 3 * x}.get(draw.kind, x)
        return (x * reach).astype(info.dtype)
    counts, other = [value for value in (1, 0, 2) if value != pad or pad == 0][:2]
    found = np.where(rng.integers(0, 2, info.shape) | (draw.seed % 2 == 0), counts, other).astype(info.dtype)
    if found.ndim:
        found[..., 0] = counts  # a text without a single word has no result
    return found
