"""The orders in which tensors lie: views, and transpositions between ONNX's order and that of images."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from edgekern._core import StepKind
from edgekern.compiler.steps import NHWC, KernelStep, Tensor, channels_last, inverse

MAX_RANK = 4  # axes that a moving kernel takes
MOST_AXES = 8  # that a tensor has


class Emitter(Protocol):
    """What takes steps: the lowering."""

    def emit(self, step: KernelStep) -> Tensor:
        """Append a step; its result."""
        ...


def view(x: Tensor, **changes: Any) -> Tensor:
    """The same bytes under another name, shape, type or scale."""
    return replace(x, view_of=x.root, **{"names": [], **changes})


def merge_axes(shape: Sequence[int], perm: Sequence[int]) -> tuple[list[int], list[int]]:
    """Write a transposition with as few axes as it can have: unit axes go, axes that stay neighbors become one."""
    kept = [axis for axis in perm if shape[axis] != 1]
    groups: list[list[int]] = []
    for axis in kept:
        last = groups[-1][-1] if groups else -2
        between = range(last + 1, axis)
        if last >= 0 and axis > last and all(shape[skipped] == 1 for skipped in between):
            groups[-1].append(axis)
        else:
            groups.append([axis])
    ranks = sorted(range(len(groups)), key=lambda i: groups[i][0])
    sides = [math.prod(shape[axis] for axis in groups[i]) for i in ranks]
    return sides, [ranks.index(i) for i in range(len(groups))]


def four(sides: Sequence[int], filler: int = 1) -> list[int]:
    """Sides of four axes, those in front filled up."""
    return [filler] * (MAX_RANK - len(sides)) + list(sides)


def eight(sides: Sequence[int], filler: int = 1) -> list[int]:
    """The same of as many axes as a tensor can have."""
    return [filler] * (MOST_AXES - len(sides)) + list(sides)


def places(tables: Sequence[npt.NDArray[Any]]) -> bytes:
    """What a step picks along each of as many axes as a tensor can have: the first element of those in front."""
    return np.concatenate([np.zeros(MOST_AXES - len(tables), np.int32), *tables]).astype(np.int32).tobytes()


def pad(steps: Emitter, x: Tensor, before: Sequence[int], after: Sequence[int], code: int, name: str) -> Tensor:
    """Surround ``x`` with ``code``; widths are along the stored axes."""
    if not any(before) and not any(after):
        return view(x)
    shape = tuple(side + lead + tail for side, lead, tail in zip(x.shape, before, after, strict=True))
    arguments = {"x_shape": four(x.shape), "y_shape": four(shape), "before": four(before, 0), "value": code & 0xFF}
    y = Tensor(x.name, x.dtype, shape, x.quant, x.order)
    return steps.emit(KernelStep(StepKind.PAD, name, "Pad", [x], y, arguments=arguments))


def transposed(steps: Emitter, x: Tensor, perm: tuple[int, ...], order: tuple[int, ...], name: str) -> Tensor:
    """Permute the stored axes of ``x``; where only axes of one element move, the bytes stay."""
    shape = tuple(x.shape[axis] for axis in perm)
    sides, merged = merge_axes(x.shape, perm)
    if x.size == 0 or merged == list(range(len(merged))):
        return view(x, shape=shape, order=order)
    y = Tensor(x.name, x.dtype, shape, x.quant, order)
    if len(sides) > MAX_RANK:
        lead = MOST_AXES - len(sides)
        perm8 = [*range(lead), *(lead + axis for axis in merged)]
        arguments = {"x_shape": eight(sides), "perm": perm8, "item_bytes": x.item_bytes}
        return steps.emit(KernelStep(StepKind.PERMUTE, name, "Transpose", [x], y, arguments=arguments))
    lead = MAX_RANK - len(sides)
    perm4 = [*range(lead), *(lead + axis for axis in merged)]
    arguments = {"x_shape": four(sides), "perm": perm4, "item_bytes": x.item_bytes}
    return steps.emit(KernelStep(StepKind.TRANSPOSE, name, "Transpose", [x], y, arguments=arguments))


def to_channels_last(steps: Emitter, x: Tensor) -> Tensor:
    """An image over any dimensions, with its channels last; what is no image as it is."""
    order = channels_last(len(x.shape))
    if len(order) < 3 or x.order == order:
        return x
    return transposed(steps, in_onnx_order(steps, x), order, order, f"{x.name} to NHWC")


def in_onnx_order(steps: Emitter, x: Tensor) -> Tensor:
    """The inverse of :func:`to_channels_last`, for flattened images too."""
    if x.flat is not None:
        channels, height, width = x.flat
        image = view(x, shape=(x.size // math.prod(x.flat), height, width, channels), order=NHWC, flat=None)
        return view(transposed(steps, image, inverse(NHWC), (), f"{x.name} to NCHW"), shape=x.shape)
    return x if x.order == () else transposed(steps, x, inverse(x.order), (), f"{x.name} to NCHW")
