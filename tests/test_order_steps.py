"""The order of steps: the lowest peak there is, the order at hand where none is lower, and the same bits."""

from itertools import permutations

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import edgekern as ek
from edgekern._core import DType, StepKind
from edgekern.compiler import memory, pipeline
from edgekern.compiler.passes.order_stages import Stage
from edgekern.compiler.passes.order_steps import order_steps
from edgekern.compiler.steps import KernelStep, Tensor

from graphs import Graph, feeds_of

Case = tuple[list[Stage], list[Tensor], list[Tensor]]


def tensor(name: str, size: int) -> Tensor:
    return Tensor(name, DType.U8, (size,))


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """One or two stages of up to 6 steps that read what is there before them, views among it."""
    source = tensor("x", draw(st.integers(1, 900)))
    known, stages = [source], []
    for _ in range(draw(st.integers(1, 2))):
        steps = []
        for at in range(draw(st.integers(1, 6))):
            inputs = draw(st.lists(st.sampled_from(known), min_size=1, max_size=3))
            y = tensor(f"t{len(known)}", draw(st.integers(1, 900)))
            steps.append(KernelStep(StepKind.MAP, f"s{at}", "Any", inputs, y))
            known.append(y)
            if draw(st.booleans()):
                known.append(Tensor(f"{y.name}.view", y.dtype, y.shape, view_of=y))
        stages.append(Stage(steps=tuple(steps)))
    return stages, [source], draw(st.lists(st.sampled_from(known), min_size=1, max_size=2))


def bound(case: Case) -> int:
    return memory.plan_memory(*case).lower_bound


def is_possible(steps: tuple[KernelStep, ...]) -> bool:
    waiting = {step.output for step in steps}
    for step in steps:
        if any(x.root in waiting for x in step.inputs):
            return False
        waiting.remove(step.output)
    return True


@settings(deadline=None)
@given(cases())
def test_no_order_has_a_lower_bound(case):
    stages, inputs, outputs = case
    ordered = order_steps(stages, inputs, outputs, {})
    assert [set(stage.steps) for stage in ordered] == [set(stage.steps) for stage in stages]
    assert all(is_possible(stage.steps) for stage in ordered)
    found, given_bound = bound((ordered, inputs, outputs)), bound(case)
    assert found < given_bound or ordered == stages
    for at, stage in enumerate(ordered):  # alone, no stage can be made better
        for steps in permutations(stage.steps):
            if is_possible(steps):
                other = [*ordered[:at], Stage(steps=steps), *ordered[at + 1 :]]
                assert bound((other, inputs, outputs)) >= found


def three_wide_branches() -> onnx.ModelProto:
    """Branches that are wide inside and end in one column: one at a time is enough."""
    g = Graph()
    x = g.input("x", (64, 8))
    wide = [g.op("MatMul", x, g.const(g.rng.normal(size=(8, 256)), np.float32)) for _ in range(3)]
    ends = [g.op("MatMul", y, g.const(g.rng.normal(size=(256, 1)), np.float32)) for y in wide]
    return g.model(g.op("Add", g.op("Add", ends[0], ends[1]), ends[2]))


def at_hand(stages, inputs, outputs):
    """A plan of the order that is there."""
    return list(stages), memory.plan_memory(stages, inputs, outputs)


def ordered_alone(stages, inputs, outputs):
    """A plan that writes no result over an input."""
    ordered = order_steps(stages, inputs, outputs, {})
    return ordered, memory.plan_memory(ordered, inputs, outputs)


def compiled(model: onnx.ModelProto, plan) -> ek.Program:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipeline, "smaller_plan", plan)
        return ek.compile(model)


def test_wide_branches_run_one_behind_the_other():
    model = three_wide_branches()
    program, before = ek.compile(model), compiled(model, at_hand)
    assert program.memory_plan.arena_bytes < before.memory_plan.arena_bytes / 2
    assert program.memory_plan.arena_bytes == program.memory_plan.lower_bound
    assert {step.name for step in program.steps} == {step.name for step in before.steps}


@st.composite
def nets(draw: st.DrawFn) -> onnx.ModelProto:
    g = Graph(draw(st.integers(0, 99)))
    known = [(g.input("x", (9, 24)), 24)]
    for _ in range(draw(st.integers(2, 9))):
        kind = draw(st.sampled_from(["MatMul", "Add", "Relu", "Mul"]))
        y, width = draw(st.sampled_from(known))
        if kind == "MatMul":
            wider = draw(st.sampled_from([4, 24, 200]))
            known.append((g.op("MatMul", y, g.const(g.rng.normal(size=(width, wider)), np.float32)), wider))
        elif kind == "Relu":
            known.append((g.op("Relu", y), width))
        else:
            other = draw(st.sampled_from([name for name, size in known if size == width]))
            known.append((g.op(kind, y, other), width))
    read = {name for node in g.nodes for name in node.input}
    return g.model(*(name for name, _ in known[1:] if name not in read))


@pytest.mark.parametrize("threads", [1, 2])
@settings(max_examples=25, deadline=None)
@given(model=nets())
def test_orders_give_the_same_bits(threads, model):
    before, program, chosen = compiled(model, at_hand), compiled(model, ordered_alone), ek.compile(model)
    assert chosen.memory_plan.lower_bound <= program.memory_plan.lower_bound <= before.memory_plan.lower_bound
    assert chosen.memory_plan.arena_bytes <= before.memory_plan.arena_bytes
    feeds = feeds_of(model, 3)
    expected = ek.InferenceSession(before, num_threads=threads).run(None, feeds)
    for y, want in zip(ek.InferenceSession(program, num_threads=threads).run(None, feeds), expected, strict=True):
        np.testing.assert_array_equal(y.view(np.uint8), want.view(np.uint8))


def test_a_long_program_is_ordered_by_a_narrow_beam():
    """Its states are bounded, however many steps are ready at a time."""
    x, steps, ends = tensor("x", 64), [], []
    for at in range(120):
        wide, narrow = tensor(f"w{at}", 6400), tensor(f"n{at}", 64)
        steps.append(KernelStep(StepKind.MAP, wide.name, "Any", [x], wide))
        ends.append(KernelStep(StepKind.MAP, narrow.name, "Any", [wide], narrow))
    case = [Stage(steps=(*steps, *ends))], [x], [end.output for end in ends]
    ordered = order_steps(*case, {})
    assert bound((ordered, *case[1:])) == 6400 + 120 * 64 < bound(case)
    assert order_steps(*case, {}) == ordered
