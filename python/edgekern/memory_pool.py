"""Blocks of one piece of memory by best fit, for callers whose tensors come and go.

Programs need none: their tensors have fixed places, which the compiler plans (docs/memory.md).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from edgekern import _core
from edgekern._arguments import byte_count, integer, numpy_dtype, string
from edgekern.errors import ArgumentTypeError, ArgumentValueError

__all__ = ["MemoryPool", "PoolStatistics"]

PoolKind = Literal["input", "output", "intermediate"]
_KINDS: tuple[str, ...] = get_args(PoolKind)


@dataclass(frozen=True)
class PoolStatistics:
    """What a :class:`MemoryPool` holds.

    Attributes
    ----------
    total_bytes : of the pool
    used_bytes, peak_bytes : in blocks, with their padding, now and at most so far
    padding_bytes : of ``used_bytes``, what nobody asked for: blocks are multiples of 64 bytes (internal fragmentation)
    largest_free_bytes : the largest block that can be had
    blocks, holes : how many there are
    used_by_kind, peak_by_kind : bytes of each kind
    """

    total_bytes: int
    used_bytes: int
    peak_bytes: int
    padding_bytes: int
    largest_free_bytes: int
    blocks: int
    holes: int
    used_by_kind: Mapping[str, int]
    peak_by_kind: Mapping[str, int]

    @property
    def fragmentation(self) -> float:
        """External: the share of the free bytes that the largest block cannot have, 0 to 1."""
        free = self.total_bytes - self.used_bytes
        return 1 - self.largest_free_bytes / free if free else 0.0

    def __str__(self) -> str:
        kinds = ", ".join(f"{kind} {used:,}" for kind, used in self.used_by_kind.items())
        return (
            f"{self.used_bytes:,} of {self.total_bytes:,} bytes in {self.blocks} blocks ({kinds}; "
            f"{self.padding_bytes:,} of padding), at most {self.peak_bytes:,}; {self.holes} holes, the largest "
            f"{self.largest_free_bytes:,}: {self.fragmentation:.0%} fragmented"
        )


class MemoryPool:
    """Memory taken once, of which arrays get blocks by best fit.

    Parameters
    ----------
    total_bytes : int or str
        A multiple of 64, as a number or ``"256M"``.
    input_bytes, output_bytes, intermediate_bytes : int or str
        The most that arrays of each kind hold together; 0: there are none. They add up to ``total_bytes`` at most. What
        they leave keeps requests within budget from failing where the free bytes lie in several holes.

    Raises
    ------
    ArgumentTypeError, ArgumentValueError
        When a size is none, or budgets are more than the pool.
    MemoryBudgetError
        When the system does not have the memory.

    Examples
    --------
    >>> pool = ek.MemoryPool("256M", input_bytes="64M", output_bytes="32M", intermediate_bytes="128M")
    >>> x = pool.allocate((1, 3, 224, 224), np.float32, kind="input")
    >>> x.shape, pool.statistics().used_bytes
    ((1, 3, 224, 224), 602112)
    """

    def __init__(
        self,
        total_bytes: int | str,
        *,
        input_bytes: int | str = 0,
        output_bytes: int | str = 0,
        intermediate_bytes: int | str = 0,
    ) -> None:
        total = _size("total_bytes", total_bytes)
        budgets = [
            _size("input_bytes", input_bytes, 0),
            _size("output_bytes", output_bytes, 0),
            _size("intermediate_bytes", intermediate_bytes, 0),
        ]
        self._pool = _core.MemoryPool(total, *budgets)

    def allocate(
        self, shape: int | tuple[int, ...], dtype: npt.DTypeLike = np.float32, *, kind: PoolKind = "intermediate"
    ) -> npt.NDArray[Any]:
        """An array on the smallest hole that holds it. Its block goes back when the last array on it is gone.

        Parameters
        ----------
        shape : int or tuple of int
        dtype : of fixed size and without Python objects
        kind : "input", "output" or "intermediate"
            Whose budget it counts against.

        Returns
        -------
        numpy.ndarray
            C-contiguous, from a multiple of 64 bytes on, with whatever values were there before.

        Raises
        ------
        ArgumentTypeError, ArgumentValueError
        MemoryBudgetError
            When the budget is used up or no hole is as large; it says which.
        """
        name = "MemoryPool.allocate"
        sizes = tuple(integer(name, "shape", n) for n in (shape if isinstance(shape, (tuple, list)) else (shape,)))
        if min(sizes, default=0) < 0:
            raise ArgumentValueError(f"{name}: shape must have no negative size, got {sizes}")
        kept = numpy_dtype(name, "dtype", dtype)
        if kept.hasobject or kept.itemsize == 0:
            raise ArgumentTypeError(f"{name}: dtype must have a fixed size and no Python objects, got {kept}")
        if string(name, "kind", kind) not in _KINDS:
            raise ArgumentValueError(f"{name}: kind must be one of {', '.join(map(repr, _KINDS))}, got {kind!r}")
        nbytes = math.prod(sizes) * kept.itemsize
        if nbytes == 0:
            return np.empty(sizes, kept)
        if nbytes >= 2**63:
            raise ArgumentValueError(f"{name}: shape {sizes} of {kept} is {nbytes} bytes; no machine has as many")
        return self._pool.allocate(_KINDS.index(kind), nbytes).view(kept).reshape(sizes)

    def statistics(self) -> PoolStatistics:
        """What is in use now, and how the rest is scattered."""
        return PoolStatistics(**self._pool.statistics())

    def __repr__(self) -> str:
        return f"<edgekern.MemoryPool: {self.statistics()}>"


def _size(argument: str, given: int | str, least: int = 1) -> int:
    if least == 0 and type(given) is int and given == 0:
        return 0
    size = byte_count("MemoryPool", argument, given)
    if size >= 2**63:
        raise ArgumentValueError(
            f"MemoryPool: {argument} must be below 2**63 bytes, got {size}; no machine has as many"
        )
    return size
