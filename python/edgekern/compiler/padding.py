"""Whether what fills up an input is seen in the results. It is tried: a model may hide it in more ways than rules tell.

A mask, a causal order, or rows that have nothing to do with each other leave every bit as a program of the exact size
computes it. Sums and largest values over a dimension, and scales of whole tensors, do not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from edgekern.artifact import Program, TensorInfo
from edgekern.artifact.buckets import Buckets
from edgekern.errors import EdgekernError
from edgekern.runtime import InferenceSession

Array = npt.NDArray[Any]
Feeds = dict[str, Array]
Exact = Callable[[Sequence[int]], Program]

_MOST_TRIED = 4  # sizes of a dimension


def try_padding(program: Program, exact: Exact) -> tuple[Buckets, dict[str, str]]:
    """Run sizes between those of ``program`` beside programs for them.

    Parameters
    ----------
    program : whose buckets say which dimensions may be padded, and what may be rows
    exact : compiles the program of one size

    Returns
    -------
    (the buckets as far as they hold, why not, by the name of the dimension)
    """
    buckets, session = program.buckets, InferenceSession(program)
    assert buckets is not None
    found, reasons = list(buckets.dimensions), dict[str, str]()
    for number, one in enumerate(found):
        if not one.padded:
            continue
        reason = _seen(session, buckets, number, _between(one.sizes), exact)
        if reason is not None:
            reasons[one.name] = reason
        rows = one.rows and reason is None and _seen(session, buckets, number, [one.sizes[-1] + 1], exact) is None
        found[number] = replace(one, padded=reason is None, rows=rows)
    return replace(buckets, dimensions=tuple(found)), reasons


def _seen(session: InferenceSession, buckets: Buckets, number: int, tried: Sequence[int], exact: Exact) -> str | None:
    """What tells that something between two sizes is not as it should be, or None."""
    smallest = [one.sizes[0] for one in buckets.dimensions]
    refused, done = "", 0
    for size in tried:
        try:
            alone = InferenceSession(exact([*smallest[:number], size, *smallest[number + 1 :]]))
            for feeds in draws(alone.program.inputs):
                wanted, got = alone.run(None, feeds), session.run(None, feeds)
                for node, a, b in zip(session.get_outputs(), wanted, got, strict=True):
                    if a.shape != b.shape or a.tobytes() != b.tobytes():
                        return f"with {size}, '{node.name}' is not what a program for {size} computes"
        except EdgekernError as error:  # a size that the model does not allow, or numbers
            refused = str(error)
            continue
        done += 1
    return None if done or not tried else f"none of the sizes {list(tried)} could be tried: {refused}"


def _between(sizes: Sequence[int]) -> list[int]:
    """Sizes that are none of those given: behind each of them, where most is filled up, and one before the last."""
    found = {low + 1 for low, high in zip((0, *sizes), sizes, strict=False) if high - low > 1}
    found |= {sizes[-1] - 1} - {*sizes, 0}
    ascending = sorted(found)
    return ascending if len(ascending) <= _MOST_TRIED else [ascending[0], *ascending[1 - _MOST_TRIED :]]


def draws(inputs: Sequence[TensorInfo]) -> Iterator[Feeds]:
    """Numbers that every model takes. Whole ones are 1, what a mask has of what counts; then some of them 0, none of
    them the first."""
    rng = np.random.default_rng(0)
    for least in (1, 0):
        yield {info.name: _drawn(rng, info, least) for info in inputs}


def _drawn(rng: np.random.Generator, info: TensorInfo, least: int) -> Array:
    if info.dtype.kind in "iu" and info.dtype.itemsize == 1:
        return rng.integers(0, 256, info.shape, np.uint8).view(info.dtype)
    if info.dtype.kind not in "iub":
        return rng.normal(0, 1, info.shape).astype(info.dtype)
    found = rng.integers(least, 2, info.shape).astype(info.dtype)
    if found.ndim:
        found[..., 0] = 1
    return found
