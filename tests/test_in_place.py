"""Results written over inputs: the bits of a plan without them, nothing lost that is still read, forgeries refused."""

from collections.abc import Callable
from contextlib import contextmanager

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import edgekern as ek
from edgekern import _core
from edgekern._core import StepKind
from edgekern.compiler import memory, pipeline
from edgekern.compiler.in_place import replaceable
from edgekern.errors import ArtifactError

from graphs import Graph, feeds_of


@contextmanager
def planned(plan):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipeline, "smaller_plan", plan)
        yield


def apart(stages, inputs, outputs):
    return list(stages), memory.plan_memory(stages, inputs, outputs)


def wherever_it_may(stages, inputs, outputs):
    over = memory.dying_inputs(stages, inputs, outputs, replaceable(stages, outputs))
    return list(stages), memory.plan_memory(stages, inputs, outputs, over)


def compiled(model: onnx.ModelProto, plan) -> ek.Program:
    with planned(plan):
        return ek.compile(model, allow_host=False)


def claims(program: ek.Program) -> dict[str, list[str]]:
    """By the kind of a step: the steps that write over an input."""
    index, found = program.index, {}
    for step in index.steps:
        if index.tensors[step.outputs[0]].alias_of >= 0:
            found.setdefault(step.kind.name, []).append(step.name)
    return found


def check_reads(program: ek.Program) -> None:
    """Follow what each byte of the arena holds, the slow way: whatever is read is still there, whole."""
    index = program.index
    written = {y for step in index.steps for y in step.outputs} | set(index.inputs)

    def holder(tensor: int) -> int:
        while tensor not in written:
            tensor = index.tensors[tensor].alias_of
        return tensor

    arena = np.full(index.arena_bytes, -1)

    def bytes_of(tensor: int) -> slice:
        one = index.tensors[tensor]
        size = (
            np.prod(one.shape, dtype=int) * {"U8": 1, "S8": 1, "BOOL": 1, "F32": 4, "I32": 4, "I64": 8}[one.dtype.name]
        )
        return slice(one.offset, one.offset + size)

    for x in index.inputs:
        arena[bytes_of(x)] = x
    for step in index.steps:
        for x in step.inputs:
            assert (arena[bytes_of(x)] == holder(x)).all(), f"{step.name} reads what is no longer there"
        arena[bytes_of(step.outputs[0])] = step.outputs[0]
    for y in index.outputs:
        assert (arena[bytes_of(y)] == holder(y)).all()


def residual_codes(channels: int, kernel: int = 3) -> onnx.ModelProto:
    """8 bits: products with a residual, a sum, a table."""
    g = Graph(channels)
    x = g.qdq(g.input("x", (2, channels, 9, 7)))
    first = g.qdq(g.op("Conv", x, g.weights(channels, channels, 1, 1)), 0.4)
    conv = g.op("Conv", first, g.weights(channels, channels, kernel, kernel), pads=[kernel // 2] * 4)
    summed = g.qdq(g.op("Relu", g.op("Add", g.qdq(conv, 0.6), g.qdq(g.op("Sigmoid", x), 0.01))), 0.5)
    table = g.qdq(g.op("Tanh", summed), 0.01)
    pointwise = g.qdq(g.op("Conv", table, g.weights(channels, channels, 1, 1)), 0.4)
    mixed = g.qdq(g.op("Add", pointwise, g.qdq(g.op("Sigmoid", summed), 0.01)), 0.3)
    return g.model(g.qdq(g.op("GlobalAveragePool", g.qdq(g.op("Add", mixed, g.qdq(g.op("Tanh", x), 0.1)), 0.7))))


def residual_floats(channels: int, kernel: int = 3) -> onnx.ModelProto:
    g = Graph(channels)
    x = g.input("x", (2, channels, 9, 7))

    def weights(side: int) -> str:
        return g.const(g.rng.normal(size=(channels, channels, side, side)) / channels, np.float32)

    first = g.op("Relu", g.op("Conv", x, weights(1)))
    other = g.op("Conv", x, weights(1))
    summed = g.op("Add", g.op("Conv", first, weights(kernel), pads=[kernel // 2] * 4), other)
    soft = g.op("Softmax", g.op("Softmax", summed, axis=1), axis=1)
    curved = g.op("Softmax", g.op("Mul", g.op("Erf", soft), g.op("Cos", soft)), axis=1)
    whole = g.op("Cast", g.op("Floor", g.op("Mul", curved, g.const(50, np.float32))), to=onnx.TensorProto.INT64)
    even = g.op("Mul", g.op("Add", whole, g.const(3, np.int64)), g.op("Neg", whole))
    return g.model(g.op("ReduceMax", g.op("Mod", even, g.const(17, np.int64)), keepdims=0))


ITEM_BYTES = {"U8": 1, "S8": 1, "BOOL": 1, "F32": 4, "I32": 4, "I64": 8}
CASES = {
    **{f"codes {c}": residual_codes(c) for c in (1, 5, 16, 33, 70)},
    **{f"floats {c}": residual_floats(c) for c in (2, 5, 16, 28)},
}


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("case", CASES)
def test_kernels_that_may_write_over_an_input_give_the_same_bits(case, threads, isa):
    model = CASES[case]
    program, before = compiled(model, wherever_it_may), compiled(model, apart)
    assert not claims(before)
    wanted = {"CONV", "ADD", "LOOKUP"} if "codes" in case else {"CONV_F32", "MAP", "MAP_I64"}
    assert claims(program).keys() >= wanted
    check_reads(program)
    for seed in range(3):
        feeds = feeds_of(model, seed)
        expected = ek.InferenceSession(before, isa=isa, num_threads=threads).run(None, feeds)
        session = ek.InferenceSession(program, isa=isa, num_threads=threads)
        for _ in range(2):
            for y, want in zip(session.run(None, feeds), expected, strict=True):
                np.testing.assert_array_equal(y, want)


def test_a_deep_product_of_floats_is_not_written_over_its_addend():
    """Its unfinished sums wait in the result."""
    assert "CONV_F32" in claims(compiled(residual_floats(28), wherever_it_may))
    assert "CONV_F32" not in claims(compiled(residual_floats(29), wherever_it_may))


@st.composite
def nets(draw: st.DrawFn) -> onnx.ModelProto:
    """Element-wise steps that read each other in any way, transposed and broadcast, products and views between them."""
    g = Graph(draw(st.integers(0, 99)))
    side = draw(st.sampled_from([3, 16, 21]))
    known = [g.input("x", (side, side)), g.input("z", (side, side))]
    for _ in range(draw(st.integers(2, 12))):
        kind = draw(st.sampled_from(["Add", "Mul", "Tanh", "Abs", "MatMul", "Transpose", "Softmax", "Reshape", "Row"]))
        a, b = (draw(st.sampled_from(known)) for _ in range(2))
        if kind in ("Add", "Mul"):
            known.append(g.op(kind, a, b))
        elif kind == "MatMul":
            weights = g.const(g.rng.normal(size=(side, side)), np.float32)
            known.append(g.op("Add", g.op("MatMul", a, weights), b))
        elif kind == "Reshape":
            flat = g.op("Reshape", a, g.const([-1], np.int64))
            known.append(g.op("Reshape", g.op("Neg", flat), g.const([side, side], np.int64)))
        elif kind == "Row":
            known.append(g.op("Sub", a, g.op("ReduceMax", b, g.const([0], np.int64))))
        else:
            known.append(g.op(kind, a))
    read = {name for node in g.nodes for name in node.input}
    return g.model(*(name for name in known[2:] if name not in read or draw(st.integers(0, 5)) == 0))


@settings(max_examples=60, deadline=None)
@given(model=nets(), threads=st.sampled_from([1, 2]))
def test_whatever_reads_what_gets_the_same_bits(model, threads):
    before, feeds = compiled(model, apart), feeds_of(model, 7)
    expected = ek.InferenceSession(before, num_threads=1).run(None, feeds)
    copies = {name: x.copy() for name, x in feeds.items()}
    for program in (compiled(model, wherever_it_may), ek.compile(model)):
        check_reads(program)
        assert program.memory_plan.lower_bound <= before.memory_plan.lower_bound
        session = ek.InferenceSession(program, num_threads=threads)
        for y, want in zip(session.run(None, feeds), expected, strict=True):
            np.testing.assert_array_equal(y.view(np.uint8), want.view(np.uint8))
        for name, x in feeds.items():  # the caller's arrays are never written
            np.testing.assert_array_equal(x, copies[name])
    assert ek.compile(model).memory_plan.arena_bytes <= before.memory_plan.arena_bytes


def blocks(channels: int = 16) -> onnx.ModelProto:
    """Residual blocks behind an input that is smaller than what is in them."""
    g = Graph()
    x = g.qdq(g.op("Conv", g.qdq(g.input("x", (1, 1, 16, 16))), g.weights(channels, 1, 1, 1)), 0.3)
    for _ in range(3):
        inner = g.qdq(g.op("Relu", g.op("Conv", x, g.weights(channels, channels, 3, 3), pads=[1] * 4)), 0.5)
        outer = g.qdq(g.op("Conv", inner, g.weights(channels, channels, 3, 3), pads=[1] * 4), 0.6)
        x = g.qdq(g.op("Add", outer, x), 0.7)
    return g.model(g.qdq(g.op("GlobalAveragePool", x)))


def test_a_residual_block_needs_two_images_instead_of_three():
    program, before = ek.compile(blocks()), compiled(blocks(), apart)
    assert before.memory_plan.arena_bytes == 3 * 16 * 256
    assert program.memory_plan.arena_bytes == program.memory_plan.lower_bound == 2 * 16 * 256
    assert len(claims(program)["CONV"]) == 3


def test_only_files_that_need_a_younger_reader_ask_for_one():
    program, before = ek.compile(blocks()), compiled(blocks(), apart)
    assert program.index.encode()[8:12] == (5).to_bytes(4, "little")
    assert before.index.encode()[8:12] == (2).to_bytes(4, "little")
    older = bytearray(program.index.encode())
    older[8] = 4
    with pytest.raises(ArtifactError, match="version 4 without a blob of 4 bits"):
        _core.ProgramIndex.decode(bytes(older))
    younger = bytearray(compiled(chain("Tanh"), apart).index.encode())  # without blobs, which the version says more of
    younger[8] = 5
    with pytest.raises(ArtifactError, match="version 5 without a step that writes over an input"):
        _core.ProgramIndex.decode(bytes(younger))


def load_forged(model: onnx.ModelProto, change: Callable[[_core.ProgramIndex], None]) -> None:
    """The check that every reader makes, of an index that was changed."""
    index = compiled(model, wherever_it_may).index
    data_bytes = max((blob.offset + blob.bytes for blob in index.blobs), default=0)
    index.validate(data_bytes)
    forged = _core.ProgramIndex.decode(index.encode())
    change(forged)
    forged.validate(data_bytes)


def chain(*kinds: str) -> onnx.ModelProto:
    g = Graph()
    y = g.op("Transpose", g.input("x", (16, 32)), perm=[1, 0])
    for kind in kinds:
        y = g.op(kind, y)
    return g.model(g.op("ReduceMax", y, keepdims=0))


def lay_over(index, y: int, x: int) -> None:
    """Claims that the tensor y is written over x."""
    tensors = index.tensors
    tensors[y].alias_of, tensors[y].offset = x, tensors[x].offset
    index.tensors = tensors


def test_a_kind_that_may_not_write_over_its_input_is_refused():
    def change(index):
        step = next(step for step in index.steps if step.kind == StepKind.SOFTMAX_F32)
        lay_over(index, step.outputs[0], step.inputs[0])

    with pytest.raises(ArtifactError, match=r"over .*, which a step of its kind \(SOFTMAX_F32\) may not"):
        load_forged(chain("Tanh", "Softmax"), change)


def test_an_input_that_is_read_in_another_order_is_refused():
    """A map may replace what lies as its result does, and nothing else."""
    g = Graph()
    y = g.op("Softmax", g.op("Tanh", g.input("x", (16, 16))))
    model = g.model(g.op("ReduceMax", g.op("Add", g.op("Transpose", y, perm=[1, 0]), y), keepdims=0))

    def change(index):
        step = next(step for step in index.steps if step.kind == StepKind.MAP and len(step.inputs) == 2)
        assert index.tensors[step.outputs[0]].alias_of >= 0
        arguments = step.arguments
        code = list(arguments["code"])
        code[6:8], code[14:16] = [1, 16], [1, 16]
        steps = index.steps
        at = [one.name for one in steps].index(step.name)
        steps[at].arguments = {**arguments, "code": code}
        index.steps = steps

    with pytest.raises(ArtifactError, match="may not do with input"):
        load_forged(model, change)


def test_what_is_read_later_may_not_be_written_over():
    g = Graph()
    y = g.op("Softmax", g.input("x", (16, 16)))
    model = g.model(g.op("ReduceMax", g.op("MatMul", g.op("Softmax", g.op("Tanh", y)), y), keepdims=0))

    def change(index):
        step = next(step for step in index.steps if step.kind == StepKind.MAP)
        lay_over(index, step.outputs[0], step.inputs[0])

    with pytest.raises(ArtifactError, match=r"reads tensor .*, over which step .* has written"):
        load_forged(model, change)


def test_what_the_step_does_not_read_or_the_caller_owns_may_not_be_written_over():
    def unread(index):
        maps = [step for step in index.steps if step.kind == StepKind.MAP]
        lay_over(index, maps[-1].outputs[0], index.steps[0].outputs[0])

    model = chain("Softmax", "Tanh", "Softmax", "Tanh")
    with pytest.raises(ArtifactError, match=r"over .*, which it does not read"):
        load_forged(model, unread)
    g = Graph()
    model = g.model(g.op("ReduceMax", g.op("Tanh", g.input("x", (16, 16))), keepdims=0))
    with pytest.raises(ArtifactError, match="which is written already"):
        load_forged(model, lambda index: lay_over(index, index.steps[0].outputs[0], index.steps[0].inputs[0]))


def test_a_result_of_the_program_may_not_be_written_over():
    def change(index):
        index.outputs = [index.steps[1].outputs[0]]

    with pytest.raises(ArtifactError, match=r"the caller reads tensor .*, over which step"):
        load_forged(chain("Softmax", "Tanh", "Softmax"), change)
