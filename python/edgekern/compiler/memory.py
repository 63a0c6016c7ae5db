"""Where tensors lie in the arena: lifetimes from the order of the steps, offsets from the planner in C++."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate

import onnx_ir as ir

from edgekern import _core
from edgekern.compiler.in_place import Replaceable, replaceable
from edgekern.compiler.passes.order_stages import Stage
from edgekern.compiler.passes.order_steps import order_steps
from edgekern.compiler.steps import ALIGNMENT, Tensor, aligned
from edgekern.errors import CompileError
from edgekern.graph.dimensions import LARGEST_SIZE
from edgekern.graph.values import shape_of

_MOST_BYTES = 2**61  # no machine has so many; with padding they still are an int64


@dataclass(frozen=True)
class Plan:
    """Offsets of the tensors that own bytes; views share those of their root.

    Attributes
    ----------
    over : for what a step writes over an input, that input's root
    """

    tensors: tuple[Tensor, ...]
    offsets: dict[Tensor, int]
    peak: int
    lower_bound: int
    method: str
    over: Mapping[Tensor, Tensor] = field(default_factory=dict)


def smaller_plan(
    stages: Sequence[Stage], inputs: Sequence[Tensor], outputs: Sequence[Tensor]
) -> tuple[list[Stage], Plan]:
    """Plan the arena, with other orders of steps and with results over inputs where bound and arena get smaller."""
    able = replaceable(stages, outputs)
    best, chosen = plan_memory(stages, inputs, outputs), list(stages)
    orders = [chosen, order_steps(stages, inputs, outputs, {}), order_steps(stages, inputs, outputs, able)]
    for number, order in enumerate(orders):
        if order in orders[:number]:
            continue
        for over in ({}, _needed(order, inputs, outputs, able)):
            plan = plan_memory(order, inputs, outputs, over)
            if plan.lower_bound < best.lower_bound and plan.peak < best.peak:
                best, chosen = plan, order
    return chosen, best


def plan_memory(
    stages: Sequence[Stage],
    inputs: Sequence[Tensor],
    outputs: Sequence[Tensor],
    over: Mapping[Tensor, Tensor] | None = None,
) -> Plan:
    """Plan the arena. ``over``: as of :class:`Plan`; what is written over one another is one buffer."""
    lives = _Lives(stages, inputs, outputs)
    over = {} if over is None else over
    roots = [tensor for tensor in lives.tensors if tensor.view_of is None]
    if sum(root.nbytes for root in roots) >= _MOST_BYTES:
        largest = max(roots, key=lambda root: root.nbytes)
        raise CompileError(too_large(largest.name, largest.shape, largest.nbytes))
    owner: dict[Tensor, Tensor] = {}
    spans: dict[Tensor, tuple[int, int]] = {}
    for root in roots:  # in the order of their first use: what is written over comes first
        owner[root] = owner[over[root]] if root in over else root
        lower, upper = lives.span(root)
        spans[owner[root]] = (spans.get(owner[root], (lower, upper))[0], upper)
    plan = _core.plan_memory(
        [lower for lower, _ in spans.values()],
        [upper for _, upper in spans.values()],
        [root.nbytes for root in spans],
        ALIGNMENT,
    )
    at = dict(zip(spans, plan.offsets, strict=True))
    offsets = {root: at[owner[root]] for root in roots}
    return Plan(tuple(lives.tensors), offsets, plan.peak, plan.lower_bound, plan.method, dict(over))


class _Lives:
    """When tensors live.

    Steps count time. What a kernel writes lives from its step to its last reader; inputs live from before the first
    step; what the host writes lives the whole run, and what it reads lives at least to where it reads.
    """

    def __init__(self, stages: Sequence[Stage], inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> None:
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
        self.tensors = _roots_first(list(seen))
        self.end = now
        self._first, self._last, self._whole_run = first, last, whole_run

    def span(self, root: Tensor) -> tuple[int, int]:
        """From the step that writes it to the one behind the last that reads it."""
        if root in self._whole_run:
            return -1, self.end + 1
        return self._first[root], self._last[root] + 1


def dying_inputs(
    stages: Sequence[Stage], inputs: Sequence[Tensor], outputs: Sequence[Tensor], able: Replaceable
) -> dict[Tensor, Tensor]:
    """What each result could be written over: of what its step may replace, the first that nobody reads after it."""
    lives = _Lives(stages, inputs, outputs)
    over: dict[Tensor, Tensor] = {}
    for now, step in enumerate(step for stage in stages for step in stage.steps):
        dying = [root for root in able.get(step, ()) if lives.span(root)[1] == now + 1]
        if dying:
            over[step.output] = dying[0]
    return over


def _needed(
    stages: Sequence[Stage], inputs: Sequence[Tensor], outputs: Sequence[Tensor], able: Replaceable
) -> dict[Tensor, Tensor]:
    """Of them those at the steps where the bound would be passed otherwise."""
    over = dying_inputs(stages, inputs, outputs, able)
    lives = _Lives(stages, inputs, outputs)
    alive = [0] * (lives.end + 3)  # from time -1 on: what comes and goes, then what is there
    for root in lives.tensors:
        if root.view_of is None:
            lower, upper = lives.span(root)
            alive[lower + 1] += aligned(root.nbytes)
            alive[upper + 1] -= aligned(root.nbytes)
    alive = list(accumulate(alive))
    saved = {lives.span(y)[0] + 1: aligned(y.nbytes) for y in over}
    bound = max(size - saved.get(now, 0) for now, size in enumerate(alive))
    return {y: x for y, x in over.items() if alive[lives.span(y)[0] + 1] > bound}


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
