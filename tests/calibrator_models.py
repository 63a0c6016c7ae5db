"""Small models that the tests of the calibrator observe."""

from typing import Any

import numpy as np
import pytest

onnx = pytest.importorskip("onnx", reason="needs edgekern[toolkit]")
helper = onnx.helper
FLOAT = onnx.TensorProto.FLOAT


def model_of(
    nodes: list[Any],
    shape: list[Any],
    *,
    opset: int = 17,
    weights: Any = (),
    types: tuple[int, int] = (FLOAT, FLOAT),
) -> Any:
    """A model x -> y over the nodes given."""
    x = helper.make_tensor_value_info("x", types[0], shape)
    y = helper.make_tensor_value_info("y", types[1], None)
    graph = helper.make_graph(nodes, "test", [x], [y], initializer=list(weights))
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def small_cnn(opset: int = 17) -> Any:
    rng = np.random.default_rng(3)
    weights = {
        "w1": rng.normal(size=(4, 3, 3, 3)),
        "w2": rng.normal(size=(10, 4)) * 0.3,
        "b2": rng.normal(size=10),
    }
    nodes = [
        helper.make_node("Conv", ["x", "w1"], ["conv"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["conv"], ["relu"]),
        helper.make_node("GlobalAveragePool", ["relu"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["flat"]),
        helper.make_node("Shape", ["flat"], ["shape"]),
        helper.make_node("Gemm", ["flat", "w2", "b2"], ["y"], transB=1),
    ]
    tensors = [onnx.numpy_helper.from_array(w.astype(np.float32), name) for name, w in weights.items()]
    return model_of(nodes, ["n", 3, "h", "w"], opset=opset, weights=tensors)
