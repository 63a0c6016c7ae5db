"""Where tensors lie in the arena: lifetimes from the order of the steps, offsets from the planner in C++."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import onnx_ir as ir

from edgekern import _core
from edgekern.compiler.passes.order_stages import Stage
from edgekern.compiler.passes.order_steps import order_steps
from edgekern.compiler.steps import Tensor
from edgekern.errors import CompileError
from edgekern.graph.dimensions import LARGEST_SIZE
from edgekern.graph.values import shape_of

ALIGNMENT = 64
_MOST_BYTES = 2**61  # no machine has so many; with padding they still are an int64


@dataclass(frozen=True)
class Plan:
    """Offsets of the tensors that own bytes; views share those of their root."""

    tensors: tuple[Tensor, ...]
    offsets: dict[Tensor, int]
    peak: int
    lower_bound: int
    method: str


def smaller_plan(
    stages: Sequence[Stage], inputs: Sequence[Tensor], outputs: Sequence[Tensor]
) -> tuple[list[Stage], Plan]:
    """Plan the arena, with the steps in another order where that makes bound and arena smaller."""
    plan = plan_memory(stages, inputs, outputs)
    ordered = order_steps(stages, inputs, outputs)
    if ordered != list(stages):
        other = plan_memory(ordered, inputs, outputs)
        if other.lower_bound < plan.lower_bound and other.peak < plan.peak:
            return ordered, other
    return list(stages), plan


def plan_memory(stages: Sequence[Stage], inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> Plan:
    """Plan the arena.

    Steps count time. What a kernel writes lives from its step to its last reader; inputs live from before the first
    step; what the host writes lives the whole run, and what it reads lives at least to where it reads.
    """
    first: dict[Tensor, int] = dict.fromkeys((x.root for x in inputs), -1)
    last: dict[Tensor, int] = dict.fromkeys(first, -1)
    seen: dict[Tensor, None] = dict.fromkeys(inputs)
    whole_run: set[Tensor] = set()
    now = 0
    for stage in stages:
        for host in stage.hosts:
            for x in host.inputs.values():
                seen[x] = None
                last[x.root] = max(last.get(x.root, -1), now)
            for y in host.outputs.values():
                seen[y] = None
                whole_run.add(y.root)
        for step in stage.steps:
            for x in step.inputs:
                seen[x] = None
                if x.root not in first:
                    whole_run.add(x.root)  # nobody writes it: a host step does, or it has no bytes
                last[x.root] = now
            seen[step.output] = None
            first[step.output.root] = last[step.output.root] = now
            now += 1
    for y in outputs:
        seen[y] = None
        last[y.root] = now
    tensors = _roots_first(list(seen))
    roots = [tensor for tensor in tensors if tensor.view_of is None]
    if sum(root.nbytes for root in roots) >= _MOST_BYTES:
        largest = max(roots, key=lambda root: root.nbytes)
        raise CompileError(too_large(largest.name, largest.shape, largest.nbytes))
    lower = [-1 if root in whole_run else first[root] for root in roots]
    upper = [now + 1 if root in whole_run else last[root] + 1 for root in roots]
    plan = _core.plan_memory(lower, upper, [root.nbytes for root in roots], ALIGNMENT)
    offsets = dict(zip(roots, plan.offsets, strict=True))
    return Plan(tuple(tensors), offsets, plan.peak, plan.lower_bound, plan.method)


def refuse_large(graph: ir.Graph) -> None:
    """Before anything of the size of a tensor is made.

    Raises
    ------
    CompileError
        When a dimension is longer than steps can count.
    """
    for value in (*graph.inputs, *(value for node in graph for value in node.outputs)):
        shape = shape_of(value) or ()
        if max(shape, default=0) > LARGEST_SIZE:
            item = 4.0 if value.dtype is None else value.dtype.itemsize
            raise CompileError(too_large(str(value.name), shape, int(math.prod(shape) * item)))


def too_large(name: str, shape: Sequence[int], nbytes: int) -> str:
    """Why nothing can hold it, and what to do."""
    return (
        f"compile: '{name}' would have the shape {list(shape)}, {nbytes} bytes: more than a program can hold; make "
        "the inputs smaller, by batch or shapes where they are free"
    )


def _roots_first(tensors: list[Tensor]) -> list[Tensor]:
    """All tensors with the roots of views before them; views of views become views of the root."""
    ordered: dict[Tensor, None] = {}
    for tensor in tensors:
        ordered[tensor.root] = None
        ordered[tensor] = None
    return list(ordered)
