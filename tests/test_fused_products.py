"""What a float product finishes by itself: its bias, an activation that is written out, the sum behind it."""

import numpy as np
import pytest
from onnx import helper

from test_float_nets import assert_native, kinds, net

from float_models import f32

RNG = np.random.default_rng(3)
X = {"x": (5, 12)}
WEIGHTS = {"w": f32(RNG.normal(0, 0.3, (12, 20))), "row": f32(RNG.normal(size=20))}
PRODUCT = [helper.make_node("MatMul", ["x", "w"], ["m"]), helper.make_node("Add", ["row", "m"], ["b"])]


def chain(*nodes):
    """Nodes from one name to the next, from "b" to "y": (type, left, right), None being what comes before."""
    made, before = [], "b"
    for number, (op, *operands) in enumerate(nodes):
        name = "y" if number == len(nodes) - 1 else f"n{number}"
        made.append(helper.make_node(op, [before if operand is None else operand for operand in operands], [name]))
        before = name
    return made


ERF = [("Div", None, "root"), ("Erf", None), ("Add", None, "one")]
CUBE = [("Pow", "b", "three"), ("Mul", None, "small"), ("Add", "b", None), ("Mul", "scale", None)]
FORMS = {
    "erf, half last": (1, [*ERF, ("Mul", "b", None), ("Mul", None, "half")]),
    "erf, half first": (1, [("Mul", "b", "half"), *[("Mul", "b", "inverse"), *ERF[1:]], ("Mul", "n0", None)]),
    "erf, half inside": (1, [*ERF, ("Mul", None, "half"), ("Mul", None, "b")]),
    "tanh": (2, [*CUBE, ("Tanh", None), ("Add", "one", None), ("Mul", None, "b"), ("Mul", None, "half")]),
    "tanh, x outside": (
        2,
        [
            ("Mul", "b", "b"),
            ("Mul", None, "small"),
            ("Add", None, "one"),
            ("Mul", "b", None),
            ("Mul", "scale", None),
            ("Tanh", None),
            ("Add", None, "one"),
            ("Mul", None, "b"),
            ("Div", None, "two"),
        ],
    ),
}
NUMBERS = {
    "root": np.sqrt(2),
    "inverse": np.sqrt(0.5),
    "half": 0.5,
    "one": 1,
    "two": 2,
    "three": 3,
    "small": 0.044715,
    "scale": np.sqrt(2 / np.pi),
}


def model(nodes, **changes):
    numbers = {name: np.float32(value) for name, value in (NUMBERS | changes).items()}
    return net([*PRODUCT, *nodes], WEIGHTS | numbers, X, ["y"])


@pytest.mark.parametrize("form", FORMS)
def test_a_gelu_that_is_written_out_is_the_end_of_its_product(form):
    activation, nodes = FORMS[form]
    program = assert_native(model(chain(*nodes)))
    assert kinds(program) == ["GEMM_F32"]
    assert program.index.steps[0].arguments["activation"] == activation


@pytest.mark.parametrize("change", [{"half": 0.6}, {"root": 1.5}, {"one": 1.25}])
def test_what_only_looks_like_a_gelu_is_computed_as_it_stands(change):
    program = assert_native(model(chain(*FORMS["erf, half last"][1]), **change))
    assert kinds(program) == ["GEMM_F32", "MAP"]


def test_a_gelu_whose_inside_others_read_keeps_it():
    nodes = chain(*FORMS["erf, half last"][1])
    program = assert_native(
        net([*PRODUCT, *nodes], WEIGHTS | {k: np.float32(v) for k, v in NUMBERS.items()}, X, ["y", "n1"])
    )
    assert "MAP" in kinds(program)


def test_a_bias_a_sum_and_a_relu_behind_a_product_are_one_step():
    nodes = [helper.make_node("Add", ["b", "other"], ["s"]), helper.make_node("Relu", ["s"], ["y"])]
    program = assert_native(net([*PRODUCT, *nodes], WEIGHTS, {**X, "other": (5, 20)}, ["y"]))
    assert kinds(program) == ["GEMM_F32"]


@pytest.mark.parametrize("shape", [(5, 1), (5, 20), (1,), ()])
def test_what_is_added_is_a_bias_where_it_is_the_same_for_all_rows(shape):
    weights = WEIGHTS | {"row": f32(RNG.normal(size=shape))}
    program = assert_native(net([*PRODUCT, helper.make_node("Identity", ["b"], ["y"])], weights, X, ["y"]))
    assert kinds(program) == (["GEMM_F32"] if shape in ((1,), ()) else ["GEMM_F32", "MAP"])


def test_a_product_takes_one_bias():
    nodes = [helper.make_node("Mul", ["b", "row"], ["c"]), helper.make_node("Add", ["c", "row"], ["y"])]
    assert kinds(assert_native(net([*PRODUCT, *nodes], WEIGHTS, X, ["y"]))) == ["GEMM_F32", "MAP"]


def test_a_bias_of_grouped_channels_lies_where_each_group_looks():
    weights = {"w": f32(RNG.normal(size=(6, 2, 3, 3))), "c": f32(RNG.normal(size=(6, 1, 1)))}
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["m"], group=2, pads=[1, 1, 1, 1]),
        helper.make_node("Add", ["m", "c"], ["y"]),
    ]
    program = assert_native(net(nodes, weights, {"x": (1, 4, 7, 6)}, ["y"]))
    assert kinds(program) == ["TRANSPOSE", "CONV_F32", "TRANSPOSE"]


def test_a_product_with_a_vector_takes_no_row_for_its_column():
    weights = {"w": f32(RNG.normal(size=12)), "row": f32(RNG.normal(size=5))}
    program = assert_native(net([*PRODUCT, helper.make_node("Identity", ["b"], ["y"])], weights, X, ["y"]))
    assert kinds(program) == ["GEMM_F32", "MAP"]
