"""Reading a tensor where it lies: the elements from one index to the next along each axis of ONNX's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import onnx_ir as ir

from edgekern.compiler.lowering import Lowering
from edgekern.compiler.steps import Tensor
from edgekern.graph.values import ints_attribute, is_constant, known_shape

BATCH_AXES = 4  # in front of a product's matrices


@dataclass(frozen=True)
class Strided:
    """A tensor as ONNX sees it: its shape there, and the elements between neighbors along each axis."""

    tensor: Tensor
    shape: tuple[int, ...]
    steps: tuple[int, ...]

    def swapped(self, really: bool = True) -> Strided:
        """With its last two axes exchanged."""
        if not really:
            return self
        return replace(
            self,
            shape=(*self.shape[:-2], self.shape[-1], self.shape[-2]),
            steps=(*self.steps[:-2], self.steps[-1], self.steps[-2]),
        )

    def with_axis(self, at: int) -> Strided:
        """A vector as a matrix of one row (0) or column (1)."""
        shape, steps = list(self.shape), list(self.steps)
        shape.insert(at, 1)
        steps.insert(at, 0)
        return replace(self, shape=tuple(shape), steps=tuple(steps))


def read_strided(lowering: Lowering, value: ir.Value) -> Strided:
    """A value where it lies: behind a Transpose, where the Transpose's operand lies."""
    producer = value.producer()
    if producer is not None and producer.op_type == "Transpose" and producer.domain == "" and not is_constant(value):
        source = producer.inputs[0]
        assert source is not None
        inner = read_strided(lowering, source)
        perm = ints_attribute(producer, "perm", list(range(len(inner.shape)))[::-1])
        return Strided(inner.tensor, known_shape(value), tuple(inner.steps[axis] for axis in perm))
    x = lowering.real(value)
    order = x.order or tuple(range(len(x.shape)))
    steps, step = [0] * len(order), 1
    for at in reversed(range(len(order))):
        steps[order[at]] = step
        step *= x.shape[at]
    return Strided(x, known_shape(value), tuple(steps))


def batch_steps(batch: Sequence[int], operands: Sequence[Strided]) -> tuple[list[int], list[list[int]]]:
    """Sizes of the axes in front of a product's matrices, and each operand's steps along them, 0 if it is broadcast."""
    lead = BATCH_AXES - len(batch)
    all_steps = []
    for x in operands:
        own = len(x.shape) - 2
        steps = [0] * (BATCH_AXES - own)
        steps += [0 if side == 1 else step for side, step in zip(x.shape[:own], x.steps[:own], strict=True)]
        all_steps.append(steps)
    return [1] * lead + list(batch), all_steps


def dense_steps(sizes: Sequence[int], step: int) -> list[int]:
    """Steps along axes without gaps, ``step`` along the last."""
    steps: list[int] = []
    for side in reversed(sizes):
        steps.insert(0, step)
        step *= side
    return steps
