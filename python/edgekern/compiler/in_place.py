"""Which steps may write over what they read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from edgekern import _core
from edgekern.compiler.passes.order_stages import Stage
from edgekern.compiler.steps import KernelStep, Tensor

Replaceable = Mapping[KernelStep, Sequence[Tensor]]


def replaceable(stages: Sequence[Stage], outputs: Sequence[Tensor]) -> Replaceable:
    """For each step the tensors whose bytes its result may take if nobody reads them after it, as the core states it.

    Inputs and outputs of the program are none of them, neither way: they may lie in the caller's memory, and the host
    writes its results at any time.
    """
    steps = [step for stage in stages for step in stage.steps]
    made = {step.output.root for step in steps} - {y.root for y in outputs}
    found = {}
    for step in steps:
        y = step.output
        roots = {x.root: None for x in step.inputs if x.root in made and x.root.nbytes == y.nbytes}
        if roots and y in made:
            able = _able(step)
            roots = {root: None for root in roots if all(x in able for x in step.inputs if x.root is root)}
            found[step] = list(roots)
    return {step: roots for step, roots in found.items() if roots}


def _able(step: KernelStep) -> set[Tensor]:
    """Inputs that the step may write over wherever it reads them."""
    tensors = [*step.inputs, step.output]
    index = _core.ProgramIndex(
        tensors=[_core.TensorDef(name="", dtype=x.dtype, shape=list(x.shape)) for x in tensors],
        steps=[
            _core.Step(
                kind=step.kind,
                name="",
                op="",
                inputs=list(range(len(step.inputs))),
                outputs=[len(step.inputs)],
                arguments=step.arguments,
            )
        ],
    )
    able = set(index.replaceable(0))
    return set(step.inputs) - {x for at, x in enumerate(step.inputs) if at not in able}
