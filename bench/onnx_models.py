"""ONNX models of one operator, repeated with other weights where these are rotated."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import NodeProto, TensorProto, helper, numpy_helper

Array = npt.NDArray[Any]
_OPSET, _IR_VERSION = 17, 9
_TYPES = {
    np.dtype(np.uint8): TensorProto.UINT8,
    np.dtype(np.int8): TensorProto.INT8,
    np.dtype(np.int32): TensorProto.INT32,
    np.dtype(np.float32): TensorProto.FLOAT,
}
Output = tuple[str, type[np.generic], Sequence[int]]


def model(nodes: Iterable[NodeProto], x: Array, outputs: Iterable[Output], constants: dict[str, Array]) -> bytes:
    """A serialized model with the one input ``x``."""
    graph = helper.make_graph(
        list(nodes),
        "bench",
        [helper.make_tensor_value_info("x", _TYPES[x.dtype], x.shape)],
        [helper.make_tensor_value_info(name, _TYPES[np.dtype(kind)], shape) for name, kind, shape in outputs],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    opsets = [helper.make_opsetid("", _OPSET), helper.make_opsetid("com.microsoft", 1)]
    return bytes(helper.make_model(graph, opset_imports=opsets, ir_version=_IR_VERSION).SerializeToString())


def matmul_integer(x: Array, weights: Sequence[Array]) -> bytes:
    nodes = [helper.make_node("MatMulInteger", ["x", f"w{i}"], [f"y{i}"]) for i in range(len(weights))]
    shape = (x.shape[0], weights[0].shape[1])
    outputs: list[Output] = [(f"y{i}", np.int32, shape) for i in range(len(weights))]
    return model(nodes, x, outputs, {f"w{i}": w for i, w in enumerate(weights)})


def qlinear_matmul(
    x: Array, weights: Sequence[Array], scales: tuple[float, float, float], zero_points: tuple[int, int]
) -> bytes:
    """Scales of x, w and y; zero points of x and y."""
    constants: dict[str, Array] = {f"s{key}": np.array(s, np.float32) for key, s in zip("xwy", scales, strict=True)}
    zeros = (np.array(zero_points[0], x.dtype), np.array(0, np.int8), np.array(zero_points[1], x.dtype))
    constants |= {f"z{key}": zero for key, zero in zip("xwy", zeros, strict=True)}
    nodes = [
        helper.make_node("QLinearMatMul", ["x", "sx", "zx", f"w{i}", "sw", "zw", "sy", "zy"], [f"y{i}"])
        for i in range(len(weights))
    ]
    outputs: list[Output] = [(f"y{i}", x.dtype.type, (x.shape[0], weights[0].shape[1])) for i in range(len(weights))]
    return model(nodes, x, outputs, constants | {f"w{i}": w for i, w in enumerate(weights)})
