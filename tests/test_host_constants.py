"""Opening a host model computes dequantized weights and nothing else, whoever wrote it."""

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper

import edgekern as ek
from edgekern.artifact.host_constants import only_weights_fold
from edgekern.artifact.host_model import check_host_model
from edgekern.errors import EdgekernWarning

from graphs import Graph
from host_models import SIZE, array, model

NODE = helper.make_node
Q, SCALE = array("q", np.arange(SIZE), np.int8), array("s", 0.5)
WEIGHTS = NODE("DequantizeLinear", ["q", "s"], ["w"])
USE = NODE("Add", ["x", "w"], ["y"])

# Models whose constants are weights alone.
FOLDED = {
    "weights": [WEIGHTS, USE],
    "transposed weights": [WEIGHTS, NODE("Transpose", ["w"], ["t"]), NODE("Add", ["x", "t"], ["y"])],
    "no constants": [NODE("Neg", ["x"], ["y"])],
    "an initializer": [NODE("Add", ["x", "s"], ["y"])],
    "activations, too": [
        WEIGHTS,
        NODE("QuantizeLinear", ["x", "s"], ["xq"]),
        NODE("DequantizeLinear", ["xq", "s"], ["xd"]),
        NODE("Add", ["xd", "w"], ["y"]),
    ],
}
# Those with other ones, as a stranger may write them.
LEFT = {
    "a product of weights": [WEIGHTS, NODE("Mul", ["w", "w"], ["p"]), NODE("Add", ["x", "p"], ["y"])],
    "a chain of transposes": [
        WEIGHTS,
        NODE("Transpose", ["w"], ["a"]),
        NODE("Transpose", ["a"], ["b"]),
        NODE("Add", ["x", "b"], ["y"]),
    ],
    "one weight many times": [
        WEIGHTS,
        NODE("DequantizeLinear", ["q", "s"], ["v"]),
        NODE("Add", ["x", "w"], ["z"]),
        NODE("Add", ["z", "v"], ["y"]),
    ],
    "one transposed many times": [
        WEIGHTS,
        *(NODE("Transpose", ["w"], [name]) for name in "ab"),
        NODE("Add", ["x", "a"], ["z"]),
        NODE("Add", ["z", "b"], ["y"]),
    ],
    "a size of a shape": [
        NODE("Shape", ["x"], ["n"]),
        NODE("ConstantOfShape", ["n"], ["big"]),
        NODE("Add", ["x", "big"], ["y"]),
    ],
    "no inputs": [NODE("Constant", [], ["w"], value=array("", np.ones(SIZE))), USE],
    "another domain": [NODE("DequantizeLinear", ["q", "s"], ["w"], domain="com.microsoft"), USE],
    "a quantized constant": [
        NODE("QuantizeLinear", ["s", "s"], ["w8"]),
        NODE("DequantizeLinear", ["w8", "s"], ["w"]),
        USE,
    ],
}


def encoded(nodes) -> bytes:
    made = model(nodes, [Q, SCALE], domains=["com.microsoft"])
    content = bytes(made.SerializeToString())
    assert check_host_model(content, "host.0") is False
    return content


@pytest.mark.parametrize("name", FOLDED)
def test_weights_are_folded(name):
    assert only_weights_fold(encoded(FOLDED[name]))


@pytest.mark.parametrize("name", LEFT)
def test_nothing_is_folded_where_more_is_constant(name):
    assert not only_weights_fold(encoded(LEFT[name]))


def test_fields_that_come_twice_hide_nothing():
    """protobuf merges two graphs of one model, and takes the last of two operators."""
    first, second = encoded(FOLDED["weights"]), encoded(LEFT["a product of weights"])
    assert not only_weights_fold(first + second)
    assert not only_weights_fold(second + first)
    named = NODE("DequantizeLinear", ["q", "s"], ["v"]).SerializeToString() + b"\x22\x03Mul"
    assert onnx.NodeProto.FromString(named).op_type == "Mul"
    graph = b"\x0a" + bytes([len(named)]) + named
    content = encoded(FOLDED["an initializer"]) + b"\x3a" + bytes([len(graph)]) + graph
    assert [node.op_type for node in onnx.ModelProto.FromString(content).graph.node] == ["Add", "Mul"]
    assert not only_weights_fold(content)


def test_sparse_initializers_are_constants_of_any_size():
    made = model([NODE("Mul", ["w", "w"], ["p"]), NODE("Add", ["x", "p"], ["y"])])
    made.graph.sparse_initializer.add(values=array("w", np.ones(1)), indices=array("i", [0], np.int64), dims=[SIZE])
    assert not only_weights_fold(made.SerializeToString())


@pytest.mark.usefixtures("no_float_kernels")
@pytest.mark.parametrize("folded", [True, False])
def test_a_session_folds_weights_and_only_those(folded, monkeypatch):
    seen = []
    opened = onnxruntime.InferenceSession

    def watched(content, *arguments, disabled_optimizers=(), **options):
        seen.append(list(disabled_optimizers))
        return opened(content, *arguments, disabled_optimizers=disabled_optimizers, **options)

    g = Graph()
    x = g.input("x", (2, 8))
    w = g.op("DequantizeLinear", g.const(np.ones((8, 4)), np.int8), g.const(0.5, np.float32))
    w = w if folded else g.op("Softsign", w)
    with pytest.warns(EdgekernWarning):
        program = ek.compile(g.model(g.op("MatMul", x, w)))
    monkeypatch.setattr(onnxruntime, "InferenceSession", watched)
    given = np.ones((2, 8), np.float32)
    [y] = ek.InferenceSession(program).run(None, {"x": given})
    np.testing.assert_allclose(y, np.full((2, 4), 4 if folded else 8 / 3), rtol=1e-6)
    assert [("ConstantFolding" in disabled) for disabled in seen] == [not folded]
