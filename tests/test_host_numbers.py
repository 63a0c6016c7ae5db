"""A host step means what ONNX says: held to the definition in float64, for every way to write 8 bits in a model.

onnxruntime's own rewrites give 44 to 48 dB where weights alone are quantized, less with an outlier channel,
45 where 16-bit Q and DQ surround a product, and 37 where two pairs of Q and DQ follow each other.
"""

import itertools
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import edgekern as ek
from edgekern.calibration.runner import FloatRunner
from edgekern.errors import CompileError, EdgekernWarning
from edgekern.graph.model import open_model

from float_models import sqnr_db
from graphs import Graph, onnxruntime_session

Array = npt.NDArray[Any]
pytestmark = pytest.mark.usefixtures("no_float_kernels")

LEAST_DB = 90.0
TYPES = {
    "int8": (TensorProto.INT8, -128, 127),
    "uint8": (TensorProto.UINT8, 0, 255),
    "int4": (TensorProto.INT4, -8, 7),
    "uint4": (TensorProto.UINT4, 0, 15),
    "int16": (TensorProto.INT16, -32768, 32767),
    "uint16": (TensorProto.UINT16, 0, 65535),
}
# How scales lie: one, one a column, or one for so many rows of each column.
LAYOUTS = {"tensor": (None, 0), "channel": (1, 0), "blocks of 16": (0, 16), "blocks of 32": (0, 32)}


def host_run(model: onnx.ModelProto, x: Array) -> Array:
    """Of a model whose every operator is a host step."""
    with pytest.warns(EdgekernWarning, match="run on the host"):
        program = ek.compile(model)
    return ek.InferenceSession(program).run(None, {"x": x})[0]


def reference_run(model: onnx.ModelProto, x: Array) -> Array:
    """As calibration and :func:`edgekern.compare` compute it."""
    name = model.graph.output[0].name
    [values] = FloatRunner(open_model(model, function="test"), [name]).run({"x": x})
    return values[name].copy()


class Net(Graph):
    """A graph with integers of every width."""

    def __init__(self) -> None:
        super().__init__(seed=5)

    def integers(self, values: Array, kind: str) -> str:
        name = self._name("c")
        self.constants.append(helper.make_tensor(name, TYPES[kind][0], values.shape, values.reshape(-1).tolist()))
        return name

    def dequantized(self, shape: tuple[int, ...], kind: str, layout: str, *, zeros: bool) -> tuple[str, Array]:
        """Weights behind a DequantizeLinear, and what they are in float64."""
        (_, lo, hi), (axis, block) = TYPES[kind], LAYOUTS[layout]
        q = self.rng.integers(lo, hi, shape, endpoint=True)
        sides = () if axis is None else (shape[0] // block, *shape[1:]) if block else (shape[axis],)
        scale = self.rng.uniform(0.001, 0.01, sides).astype(np.float32)
        middle = (lo + hi + 1) // 2
        zero = np.broadcast_to(self.rng.integers(middle - 3, middle + 4, sides) if zeros else middle, sides)
        attributes = {} if axis is None else {"axis": axis} | ({"block_size": block} if block else {})
        operands = self.integers(q, kind), self.const(scale), self.integers(zero, kind)
        name = self.op("DequantizeLinear", *operands, **attributes)
        if block:
            scale, zero = np.repeat(scale, block, 0), np.repeat(zero, block, 0)
        elif axis is not None:
            along = [-1 if at == axis else 1 for at in range(len(shape))]
            scale, zero = scale.reshape(along), zero.reshape(along)
        return name, (q.astype(np.float64) - zero) * scale.astype(np.float64)


PRODUCTS: dict[str, Callable[[Net, str, str], str]] = {
    "MatMul": lambda g, x, w: g.op("MatMul", x, w),
    "Gemm": lambda g, x, w: g.op("Gemm", x, w),
    "Gemm of a transposed weight": lambda g, x, w: g.op("Gemm", x, g.op("Transpose", w), transB=1),
}
WEIGHT_ONLY = list(itertools.product(PRODUCTS, TYPES, LAYOUTS, (False, True)))


@pytest.mark.parametrize(("product", "kind", "layout", "zeros"), WEIGHT_ONLY)
def test_weights_alone_are_quantized(product: str, kind: str, layout: str, zeros: bool) -> None:
    g = Net()
    x = g.rng.normal(0, 1, (4, 64)).astype(np.float32)
    x[:, 5] *= 300  # one channel far above the others: in 8 bits nothing of them is left
    w, real = g.dequantized((64, 48), kind, layout, zeros=zeros)
    model = g.model(PRODUCTS[product](g, g.input("x", x.shape), w))
    expected = x.astype(np.float64) @ real
    assert sqnr_db(expected, host_run(model, x)) >= LEAST_DB
    assert sqnr_db(expected, reference_run(model, x)) >= LEAST_DB


def rounded(x: Array, scale: float, zero_point: int, kind: str) -> Array:
    """Quantized and dequantized, in float64."""
    _, lo, hi = TYPES[kind]
    codes = np.clip(np.rint(x.astype(np.float32) / np.float32(scale)) + zero_point, lo, hi)
    return (codes.astype(np.float64) - zero_point) * np.float64(np.float32(scale))


@pytest.mark.parametrize("kind", ["int8", "uint8", "int16", "uint16"])
def test_pairs_in_a_row_round_as_often_as_there_are_pairs(kind: str) -> None:
    g = Net()
    x, scale, zero = g.rng.normal(0, 1, (4, 64)).astype(np.float32), 0.03, 3
    scale /= 256 if "16" in kind else 1
    y, expected = g.op("Sin", g.input("x", x.shape)), np.sin(x.astype(np.float64))
    for factor in (1.0, 1.7, 0.6):
        parameters = g.const(scale * factor, np.float32), g.integers(np.asarray(zero), kind)
        y = g.op("DequantizeLinear", g.op("QuantizeLinear", y, *parameters), *parameters)
        expected = rounded(expected, scale * factor, zero, kind)
    model = g.model(g.op("CumSum", y, g.const(1, np.int64)))
    assert sqnr_db(expected.cumsum(1), host_run(model, x)) >= LEAST_DB
    assert sqnr_db(expected.cumsum(1), reference_run(model, x)) >= LEAST_DB


@pytest.mark.parametrize("kind", ["int16", "uint16"])
def test_products_of_16_bits_stay_products_of_16_bits(kind: str) -> None:
    g = Net()
    x, scale, zero = g.rng.normal(0, 1, (4, 64)).astype(np.float32), 0.0003, 2
    parameters = g.const(scale, np.float32), g.integers(np.asarray(zero), kind)
    exact = g.op("DequantizeLinear", g.op("QuantizeLinear", g.input("x", x.shape), *parameters), *parameters)
    w, real = g.dequantized((64, 48), "int8", "channel", zeros=False)
    model = g.model(g.op("MatMul", exact, w))
    expected = rounded(x, scale, zero, kind) @ real
    assert sqnr_db(expected, host_run(model, x)) >= LEAST_DB
    assert sqnr_db(expected, reference_run(model, x)) >= LEAST_DB


@pytest.mark.parametrize("kind", ["int8", "uint8", "int4", "uint16"])
@pytest.mark.parametrize("layout", ["tensor", "channel"])
def test_a_table_that_is_looked_up_in_stays_what_it_is(kind: str, layout: str) -> None:
    g = Net()
    x = g.rng.normal(0, 0.001, (3, 48)).astype(np.float32)
    w, real = g.dequantized((64, 48), kind, layout, zeros=True)
    rows = [3, 1, 60]
    model = g.model(g.op("Add", g.op("Gather", w, g.const(rows, np.int64)), g.input("x", x.shape)))
    assert sqnr_db(x.astype(np.float64) + real[rows], host_run(model, x)) >= LEAST_DB


@pytest.mark.parametrize("kind", ["int8", "uint8"])
def test_a_1x1_convolution_by_dequantized_weights_is_a_float_product(kind: str) -> None:
    g = Net()
    x = g.rng.normal(0, 1, (1, 64, 3, 3)).astype(np.float32)
    w, real = g.dequantized((64, 48), kind, "channel", zeros=True)
    filters = g.op("Reshape", g.op("Transpose", w), g.const([48, 64, 1, 1], np.int64))
    model = g.model(g.op("Conv", g.input("x", x.shape), filters))
    expected = np.einsum("nkhw,kc->nchw", x.astype(np.float64), real)
    assert sqnr_db(expected, host_run(model, x)) >= LEAST_DB


def test_all_sessions_have_their_options_from_one_place() -> None:
    """The float model that the quickstart times is onnxruntime as its users run it."""
    package = Path(ek.__file__).parent
    found = {
        path.relative_to(package).as_posix()
        for path in package.rglob("*.py")
        if "onnxruntime.SessionOptions(" in path.read_text()
    }
    assert found == {"_onnxruntime.py", "quickstart/job.py"}


# --- products of integers, at values where pairs of products pass 16 bits

FULL = {np.dtype(np.uint8): 255, np.dtype(np.int8): 127}
KINDS = {np.dtype(np.uint8): TensorProto.UINT8, np.dtype(np.int8): TensorProto.INT8}


def codes_of(g: Net, shape: tuple[int, ...], dtype: npt.DTypeLike) -> Array:
    """Seven of eight are as large as they get."""
    top = FULL[np.dtype(dtype)]
    return np.where(g.rng.random(shape) < 7 / 8, top, top // 3).astype(dtype)


def as_operand(g: Net, codes: Array, how: str) -> str:
    """A small or a large constant, or a value that is computed."""
    if how == "computed":
        return g.op("Max", g.const(codes), g.op("Cast", g.input("floor", codes.shape), to=KINDS[codes.dtype]))
    return g.const(codes)


INTEGER_PRODUCTS = [
    case
    for case in itertools.product(
        ("MatMulInteger", "QLinearMatMul", "ConvInteger", "QLinearConv"),
        ("uint8", "int8"),
        ("uint8", "int8"),
        (13, 21),
        ("small", "large", "computed"),
    )
    # onnxruntime has no QLinear operators of int8 by uint8, and wants the weights of QLinearConv constant
    if not (case[0].startswith("QLinear") and case[1:3] == ("int8", "uint8"))
    and not (case[0] == "QLinearConv" and case[4] == "computed")
]


@pytest.mark.parametrize(("op", "first", "second", "opset", "how"), INTEGER_PRODUCTS)
def test_integer_products_do_not_saturate(op: str, first: str, second: str, opset: int, how: str) -> None:
    g = Net()
    g.opset = opset
    depth = 20 if how == "small" else 64
    image = "Conv" in op
    x = codes_of(g, (1, depth, 5, 5) if image else (4, depth), first)
    w = codes_of(g, (8, depth, 3, 3) if image else (depth, 48), second)
    name, weights = g.input("x", x.shape, KINDS[x.dtype]), as_operand(g, w, how)
    if image:
        windows = np.lib.stride_tricks.sliding_window_view(x.astype(np.int64), (3, 3), (2, 3))
        exact = np.einsum("nchwij,ocij->nohw", windows, w.astype(np.int64))
    else:
        exact = x.astype(np.int64) @ w.astype(np.int64)
    if op.endswith("Integer"):
        y = g.op(op, name, weights)
    else:
        step = np.float32(exact.max() / FULL[x.dtype])
        one, x_zero, w_zero = g.const(1, np.float32), g.const(0, first), g.const(0, second)
        y = g.op(op, name, one, x_zero, weights, one, w_zero, g.const(step), x_zero)
        exact = np.rint(exact / np.float64(step))
    model = g.model(y)
    on_host = op.endswith("Integer") or how == "computed"  # others are written as Q and DQ, which have kernels
    with pytest.warns(EdgekernWarning, match="run on the host") if on_host else nullcontext():
        program = ek.compile(model)
    feeds = {"x": x} | ({"floor": np.zeros(w.shape, np.float32)} if how == "computed" else {})
    np.testing.assert_array_equal(ek.InferenceSession(program).run(None, feeds)[0], exact)
    [values] = FloatRunner(open_model(model, function="test"), [y]).run(feeds)
    np.testing.assert_array_equal(values[y], exact)


# Where a body has its weights, and where the product stands in it.
PLACES = ["around it", "around it, large", "in it", "computed around it", "computed in it", "in a body of it"]


def _in_a_body(g: Net, w: Array, place: str) -> str:
    """An If whose bodies both multiply x by the same weights."""
    make, value = helper.make_node, helper.make_tensor_value_info
    outer = as_operand(g, w, "computed") if place == "computed around it" else g.const(w)
    bodies = []
    for stem in ("then", "else"):
        nodes, stored, weights, result = [], [], outer, value(f"{stem}_y", TensorProto.INT32, None)
        if place == "in it":
            weights, stored = f"{stem}_w", [numpy_helper.from_array(w, f"{stem}_w")]
        elif place == "computed in it":
            weights, nodes = f"{stem}_w", [make("Max", [outer, outer], [f"{stem}_w"])]
        nodes.append(make("MatMulInteger", ["x", weights], [result.name]))
        body = helper.make_graph(nodes, stem, [], [result], stored)
        if place == "in a body of it":
            around = make("If", ["c"], [f"{stem}_z"], then_branch=body, else_branch=body)
            body = helper.make_graph([around], stem, [], [value(f"{stem}_z", TensorProto.INT32, None)])
        bodies.append(body)
    g.input("c", (), TensorProto.BOOL)
    return g.op("If", "c", then_branch=bodies[0], else_branch=bodies[1])


@pytest.mark.filterwarnings("ignore::edgekern.errors.EdgekernWarning")
@pytest.mark.parametrize("place", PLACES)
def test_integer_products_in_bodies_do_not_saturate(place: str) -> None:
    """On a CPU without VNNI four products of 255 and 127 gave 65534, which is two times the largest of 16 bits."""
    g = Net()
    depth = 64 if "large" in place else 4
    x, w = np.full((2, depth), 255, np.uint8), np.full((depth, 32), 127, np.int8)
    g.input("x", x.shape, TensorProto.UINT8)
    model = g.model(_in_a_body(g, w, place))
    feeds = {"x": x, "c": np.array(True)} | ({"floor": np.zeros(w.shape, np.float32)} if "d around" in place else {})
    exact = np.full((2, 32), depth * 255 * 127)
    name = model.graph.output[0].name
    for taken in (True, False):
        feeds["c"] = np.array(taken)
        np.testing.assert_array_equal(ek.InferenceSession(ek.compile(model)).run(None, feeds)[0], exact)
        [values] = FloatRunner(open_model(model, function="test"), [name]).run(feeds)
        np.testing.assert_array_equal(values[name], exact)


@pytest.mark.parametrize("opset", [21, 20])
def test_integer_products_in_functions_do_not_saturate(opset: int) -> None:
    """Calibration runs the model as it is written; a function of another opset cannot be inlined."""
    g = Net()
    x, w = np.full((2, 4), 255, np.uint8), np.full((4, 32), 127, np.int8)
    name = g.op("Times", g.input("x", x.shape, TensorProto.UINT8), g.const(w), domain="own")
    result = helper.make_tensor_value_info(name, TensorProto.INT32, None)
    graph = helper.make_graph(g.nodes, "graph", g.inputs, [result], g.constants)
    inner = [helper.make_node("MatMulInteger", ["a", "b"], ["c"])]
    times = helper.make_function("own", "Times", ["a", "b"], ["c"], inner, [helper.make_opsetid("", opset)])
    imports = [helper.make_opsetid("", g.opset), helper.make_opsetid("own", 1)]
    model = helper.make_model(graph, opset_imports=imports, functions=[times], ir_version=10)
    opened = open_model(model, function="test")
    if opset != g.opset:
        with pytest.raises(CompileError, match="function 'Times' multiplies 8-bit integers and cannot be inlined"):
            FloatRunner(opened, [name])
        return
    [values] = FloatRunner(opened, [name]).run({"x": x})
    np.testing.assert_array_equal(values[name], np.full((2, 32), 4 * 255 * 127))


@pytest.mark.parametrize("op", ["MatMulIntegerToFloat", "DynamicQuantizeMatMul"])
def test_fused_dynamic_products_do_not_saturate(op: str) -> None:
    g = Net()
    w, scale = codes_of(g, (64, 48), np.int8), np.float32(0.01)
    if op == "DynamicQuantizeMatMul":
        x = np.where(g.rng.random((4, 64)) < 7 / 8, 255, 0).astype(np.float32)  # codes of scale 1
        y = g.op(op, g.input("x", x.shape), g.const(w), g.const(scale), domain="com.microsoft")
    else:
        x = codes_of(g, (4, 64), np.uint8)
        name, weights, one = g.input("x", x.shape, TensorProto.UINT8), g.const(w), g.const(1, np.float32)
        y = g.op(op, name, weights, one, g.const(scale), domain="com.microsoft")
    expected = x.astype(np.float64) @ w.astype(np.float64) * np.float64(scale)
    assert sqnr_db(expected, host_run(g.model(y), x)) >= LEAST_DB


def test_a_fused_gemm_of_integers_does_not_saturate() -> None:
    g = Net()
    x, w = codes_of(g, (4, 64), np.uint8), codes_of(g, (64, 48), np.int8)
    exact = x.astype(np.int64) @ w.astype(np.int64)
    one, step = g.const(1, np.float32), np.float32(exact.max() / 255)
    zeros = g.const(0, np.uint8), g.const(0, np.int8)
    operands = [g.input("x", x.shape, TensorProto.UINT8), one, zeros[0], g.const(w), one, zeros[1], "", g.const(step)]
    model = g.model(g.op("QGemm", *operands, zeros[0], domain="com.microsoft"))
    expected = np.rint(exact / np.float64(step))
    np.testing.assert_array_equal(ek.InferenceSession(ek.compile(model)).run(None, {"x": x})[0], expected)
    [y] = [value.name for value in model.graph.output]
    [values] = FloatRunner(open_model(model, function="test"), [y]).run({"x": x})
    np.testing.assert_array_equal(values[y], expected)


def test_an_lstm_of_integers_computes_the_same_in_the_other_sign() -> None:
    """Its weights are small here, so that no sum saturates: both signs give what onnxruntime gives."""
    g = Net()
    x = g.rng.normal(size=(5, 2, 16)).astype(np.float32)
    matrices = [g.rng.integers(-20, 21, (1, inputs, 32)).astype(np.int8) for inputs in (16, 8)]
    scales = [g.const(np.full(1, 0.02), np.float32), g.const(np.zeros(1), np.int8)]
    operands = [g.input("x", x.shape), *map(g.const, matrices), *[""] * 5, *scales, *scales]
    model = g.model(g.op("DynamicQuantizeLSTM", *operands, domain="com.microsoft", hidden_size=8))
    [expected] = onnxruntime_session(model, optimized=False).run(None, {"x": x})
    np.testing.assert_allclose(reference_run(model, x), expected, rtol=0, atol=1e-6)


def test_dynamic_quantization_written_out_is_what_onnx_says() -> None:
    g = Net()
    w, scale = codes_of(g, (64, 48), np.int8), g.rng.uniform(0.001, 0.01, 48).astype(np.float32)
    x = g.rng.uniform(-0.2, 1, (4, 64)).astype(np.float32)
    q, x_scale, zero = g.op("DynamicQuantizeLinear", g.input("x", x.shape), outputs=3)
    acc = g.op("Cast", g.op("MatMulInteger", q, g.const(w), zero), to=TensorProto.FLOAT)
    model = g.model(g.op("Mul", acc, g.op("Mul", x_scale, g.const(scale))))
    step = np.float32((x.max() - x.min()) / np.float32(255))
    middle = np.rint(-x.min() / step)
    real = (np.clip(np.rint(x / step) + middle, 0, 255) - middle).astype(np.float64) * np.float64(step)
    expected = real @ (w * scale.astype(np.float64))
    assert sqnr_db(expected, host_run(model, x)) >= LEAST_DB
    assert sqnr_db(expected, reference_run(model, x)) >= LEAST_DB


def test_weights_of_the_other_sign_do_not_make_the_program_larger() -> None:
    g = Net()
    x, w = codes_of(g, (4, 256), np.uint8), codes_of(g, (256, 256), np.int8)
    model = g.model(g.op("MatMulInteger", g.input("x", x.shape, TensorProto.UINT8), g.const(w)))
    with pytest.warns(EdgekernWarning):
        [step] = ek.compile(model).host_steps
    assert step.blob_bytes < w.size + 2000
