"""Functions of one tensor between two products: quantized and compiled to one table, however they are written out."""

import math
import warnings

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

import edgekern as ek
from edgekern.graph.families import UNARY
from edgekern.graph.formulas import formulas

node = helper.make_node
# Where a function is defined; elsewhere (-2, 2).
DOMAINS = {
    **dict.fromkeys(("Acos", "Asin", "Atanh"), (-0.9, 0.9)),
    **dict.fromkeys(("Acosh", "Reciprocal"), (1.1, 3.0)),
    **dict.fromkeys(("Log", "Sqrt"), (0.1, 3.0)),
    "Tan": (-1.2, 1.2),
}
SILU = [node("Sigmoid", ["a"], ["s"]), node("Mul", ["a", "s"], ["b"])]
HARD_SWISH = [
    node("Add", ["a", "three"], ["t"]),
    node("Clip", ["t", "zero", "six"], ["u"]),
    node("Mul", ["a", "u"], ["v"]),
    node("Div", ["v", "six"], ["b"]),
]
MISH = [node("Softplus", ["a"], ["t"]), node("Tanh", ["t"], ["u"]), node("Mul", ["a", "u"], ["b"])]
ERF_GELU = [
    node("Div", ["a", "root2"], ["t"]),
    node("Erf", ["t"], ["u"]),
    node("Add", ["u", "one"], ["v"]),
    node("Mul", ["a", "v"], ["w"]),
    node("Mul", ["w", "half"], ["b"]),
]
WRITTEN_OUT = {
    "SiLU": SILU,
    "hard-swish": HARD_SWISH,
    "mish": MISH,
    "Erf-GELU": ERF_GELU,
    "x * x": [node("Mul", ["a", "a"], ["b"])],
    "x * const": [node("Mul", ["a", "half"], ["b"])],
    "const - x": [node("Sub", ["one", "a"], ["b"])],
    "x ** 2": [node("Pow", ["a", "two"], ["b"])],
    "max(x, const)": [node("Max", ["a", "half"], ["b"])],
    "PRelu of one slope": [node("PRelu", ["a", "half"], ["b"])],
    "Sigmoid, then scaled": [node("Sigmoid", ["a"], ["s"]), node("Mul", ["s", "two"], ["b"])],
}
CONSTANTS = {"zero": 0.0, "half": 0.5, "one": 1.0, "root2": math.sqrt(2), "two": 2.0, "three": 3.0, "six": 6.0}


def between_products(body, outputs=("y",)):
    """Conv, which passes on what it gets, the nodes from ``a`` to ``b``, and a Conv that mixes channels."""
    rng = np.random.default_rng(3)
    weights = {"w1": np.eye(8, dtype=np.float32).reshape(8, 8, 1, 1), "w2": np.float32(rng.normal(size=(8, 8, 3, 3)))}
    nodes = [node("Conv", ["x", "w1"], ["a"]), *body, node("Conv", ["b", "w2"], ["y"], pads=[1] * 4)]
    constants = weights | {name: np.array(value, np.float32) for name, value in CONSTANTS.items()}
    graph = helper.make_graph(
        nodes,
        "formula",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 8, 6, 6])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 22)], ir_version=10)


def compiled(model, lo=-2.0, hi=2.0):
    rng = np.random.default_rng(5)
    feeds = [{"x": rng.uniform(lo, hi, (1, 8, 6, 6)).astype(np.float32)} for _ in range(4)]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*all .* values were 0")
        ranges = ek.Calibrator(model, progress=False).collect_many(feeds).compute_ranges()
    program = ek.compile(ek.quantize(model, ranges), allow_host=False)
    return program, ek.compare(model, program, feeds)


def kinds(program):
    return [step.kind for step in program.steps]


@pytest.mark.parametrize("name", WRITTEN_OUT)
def test_what_is_written_out_is_one_table(name):
    program, report = compiled(between_products(WRITTEN_OUT[name]))
    assert kinds(program).count("LOOKUP") == (0 if name == "x * const" else 1)  # which is another scale, and no step
    assert kinds(program).count("CONV") == 2
    assert min(row.sqnr_db for row in report.rows) > 25, str(report)


# Swish is younger than the opsets that models may have.
@pytest.mark.parametrize("op", sorted(UNARY - {"Swish"}))
def test_every_elementwise_operator_runs_on_kernels_between_products(op):
    program, report = compiled(between_products([node(op, ["a"], ["b"])]), *DOMAINS.get(op, (-2.0, 2.0)))
    assert set(kinds(program)) <= {"QUANTIZE_NCHW", "CONV", "LOOKUP", "DEQUANTIZE_NCHW", "TRANSPOSE"}
    assert kinds(program).count("LOOKUP") <= 1  # a clamp belongs to the Conv
    steps = {"Ceil", "Floor", "Round", "Sign"}  # where an input a hair away gives the next integer
    assert min(row.sqnr_db for row in report.rows) > (5 if op in steps else 20), str(report)


def test_formulas_end_where_their_result_is_read_by_others():
    import onnx_ir as ir

    graph = ir.from_proto(between_products(SILU)).graph
    found = formulas(graph)
    [(last, formula)] = found.items()
    assert last.op_type == "Mul"
    assert [inner.op_type for inner in formula.nodes] == ["Sigmoid", "Mul"]
    assert formula.root.name == "a"

    shared = ir.from_proto(between_products([*SILU, node("Conv", ["s", "w2"], ["z"])], outputs=("y", "z"))).graph
    ends = {last.op_type: formula for last, formula in formulas(shared).items()}
    assert ends["Sigmoid"].root.name == "a"
    assert "Mul" not in ends  # of a and of s, which are two tensors now


def test_a_formula_of_5000_nodes_is_found_without_recursion():
    import onnx_ir as ir

    body = [node("Mul", ["a" if i == 0 else f"t{i}", "one"], [f"t{i + 1}"]) for i in range(5000)]
    body.append(node("Sigmoid", ["t5000"], ["b"]))
    [formula] = formulas(ir.from_proto(between_products(body)).graph).values()
    assert len(formula.nodes) == 5001
