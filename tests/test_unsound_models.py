"""Models that onnx's checker lets pass though nobody can run them: each is refused by name, and nothing is printed."""

import numpy as np
import pytest
from onnx import helper, numpy_helper

import edgekern as ek
from edgekern.errors import ArgumentValueError, EdgekernError

from float_models import build, f32

node = helper.make_node
WEIGHTS = f32(np.arange(1, 37).reshape(6, 6) / 36)


def model(weights=WEIGHTS):
    nodes = [node("MatMul", ["x", "w"], ["h"]), node("Relu", ["h"], ["r"]), node("MatMul", ["r", "w"], ["y"])]
    return build(nodes, {"w": weights}, ["n", weights.shape[0]])


def with_output(name):
    made = model()
    made.graph.output[0].name = name
    return made


def with_weights_of(kind, side=6):
    made = model(np.ones((side, side), np.float32))
    made.graph.initializer[0].data_type = kind
    return made


def with_value_of(kind, place):
    made = model()
    value = getattr(made.graph, place).add(name="v") if place == "value_info" else getattr(made.graph, place)[0]
    value.type.tensor_type.elem_type = kind
    return made


def with_constant_of(kind):
    tensor = numpy_helper.from_array(WEIGHTS, "inner")
    tensor.data_type = kind
    return build([node("Constant", [], ["w"], value=tensor), node("MatMul", ["x", "w"], ["y"])], {}, [4, 6])


def with_content_for(kind, dims, inline=False):
    """24 numbers under a shape that has another number of them."""
    tensor = numpy_helper.from_array(np.ones((4, 6), kind), "few")
    tensor.dims[:] = dims
    used = [node("Cast", ["few"], ["w"], to=1), node("MatMul", ["x", "w"], ["y"])]
    made = build([node("Constant", [], ["few"], value=tensor), *used] if inline else used, {}, [4, dims[0]])
    if not inline:
        made.graph.initializer.append(tensor)
    return made


def with_function(domain, name, output):
    made = model()
    opsets = [helper.make_opsetid("", 17)]
    made.functions.append(helper.make_function(domain, name, ["a"], [output], [node("Abs", ["a"], ["b"])], opsets))
    if domain == "own":
        made.graph.node[1].op_type, made.graph.node[1].domain = name, domain
        made.opset_import.append(helper.make_opsetid(domain, 1))
    return made


@pytest.mark.parametrize("call", [ek.compile, ek.Calibrator])
@pytest.mark.parametrize(
    ("given", "reason"),
    [
        (with_output("zzz"), "no node makes the output 'zzz'"),
        (with_output(""), "no node makes the output ''"),
        (with_weights_of(99), "tensor 'w' has the element type 99"),
        (with_weights_of(99, side=64), "tensor 'w' has the element type 99"),
        (with_value_of(99, "input"), "tensor 'x' has the element type 99"),
        (with_value_of(99, "output"), "tensor 'y' has the element type 99"),
        (with_value_of(99, "value_info"), "tensor 'v' has the element type 99"),
        (with_constant_of(99), "tensor 'inner' has the element type 99"),
        (with_content_for(np.float16, [4, 5]), "tensor 'few' does not hold what its type and shape say"),
        (with_content_for(np.float16, [4, 5], inline=True), "tensor 'few' does not hold what its type and shape say"),
        (with_content_for(np.float32, [4, 5]), "tensor 'few' does not hold what its type and shape say"),
        (with_content_for(np.int32, [2, 3]), "tensor 'few' does not hold what its type and shape say"),
        (
            model().SerializeToString().replace(b"test", b"te\xfft"),
            r"it holds the text b.te\\xfft., which is not UTF-8",
        ),
        (with_function("own", "F", "c"), "no node of function 'F' makes its output 'c'"),
        (with_function("", "Relu", "b"), "function 'Relu' stands in ONNX's own domain"),
        (with_function("ai.onnx", "Relu", "b"), "function 'Relu' stands in ONNX's own domain"),
    ],
)
def test_what_nobody_can_run_is_refused_when_it_is_opened(call, given, reason, capfd):
    """These ended in AssertionError and SerdeError, or were called a fault of edgekern."""
    with pytest.raises(ArgumentValueError, match=f"{call.__name__}: model is not valid ONNX: {reason}"):
        call(given)
    assert capfd.readouterr() == ("", "")


@pytest.mark.filterwarnings("ignore::edgekern.errors.EdgekernWarning")
def test_outputs_may_be_inputs_and_weights():
    made = model()
    made.graph.output.extend(helper.make_tensor_value_info(name, 1, None) for name in ("x", "w"))
    assert [info.name for info in ek.compile(made).outputs] == ["y", "x", "w"]


@pytest.mark.parametrize("sides", [(1, 1, 2**31 - 1, 2**31 - 1), (1, 2**20, 2**31 - 1, 2**31 - 1)])
def test_inputs_that_no_memory_holds_are_refused_by_name(sides):
    """The shapes of pools were counted on zeros of that size."""
    made = build([node("MaxPool", ["x"], ["y"], kernel_shape=[2, 2], strides=[2, 2], ceil_mode=1)], {}, list(sides))
    with pytest.raises(EdgekernError, match=r"'[xy]'"):
        ek.compile(made)
