"""ONNX models of one operator, repeated with other weights where these are rotated."""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

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
# Of x, of w (one number or one a column), of y.
Scales = tuple[float, float | Array, float]
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


def matmul(x: Array, w: Array) -> bytes:
    """float32, one product."""
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"])]
    return model(nodes, x, [("y", np.float32, (x.shape[0], w.shape[1]))], {"w": w})


def matmul_integer(x: Array, weights: Sequence[Array]) -> bytes:
    nodes = [helper.make_node("MatMulInteger", ["x", f"w{i}", "", f"zw{i}"], [f"y{i}"]) for i in range(len(weights))]
    shape = (x.shape[0], weights[0].shape[1])
    outputs: list[Output] = [(f"y{i}", np.int32, shape) for i in range(len(weights))]
    return model(nodes, x, outputs, _numbered(weights, np.zeros((), np.int8)))


def _numbered(weights: Sequence[Array], zero_point: Array) -> dict[str, Array]:
    """Weights and their zero points, one a product: onnxruntime makes other weights of each pair on some machines."""
    return {f"w{i}": w for i, w in enumerate(weights)} | {f"zw{i}": zero_point for i in range(len(weights))}


def _maps(x: Array, scales: Scales, zero_points: tuple[int, int]) -> dict[str, Array]:
    """Scales of x, w and y and zero points of x and y as constants."""
    values = {f"s{key}": np.asarray(scale, np.float32) for key, scale in zip("xwy", scales, strict=True)}
    return values | {f"z{key}": np.array(zero, x.dtype) for key, zero in zip("xy", zero_points, strict=True)}


def qlinear_matmul(x: Array, weights: Sequence[Array], scales: Scales, zero_points: tuple[int, int]) -> bytes:
    """Scales of x, w and y; zero points of x and y."""
    constants = _maps(x, scales, zero_points)
    nodes = [
        helper.make_node("QLinearMatMul", ["x", "sx", "zx", f"w{i}", "sw", f"zw{i}", "sy", "zy"], [f"y{i}"])
        for i in range(len(weights))
    ]
    outputs: list[Output] = [(f"y{i}", x.dtype.type, (x.shape[0], weights[0].shape[1])) for i in range(len(weights))]
    return model(nodes, x, outputs, constants | _numbered(weights, np.zeros_like(constants["sw"], np.int8)))


def dynamic_linear(x: Array, weights: Sequence[Array], scale: Array, bias: Array) -> bytes:
    """float32 in and out, the chain that exporters write: the activations are quantized once for all copies."""
    nodes = [
        helper.make_node("DynamicQuantizeLinear", ["x"], ["q", "sx", "zx"]),
        helper.make_node("Mul", ["sx", "sw"], ["s"]),
    ]
    for i in range(len(weights)):
        nodes += [
            helper.make_node("MatMulInteger", ["q", f"w{i}", "zx", f"zw{i}"], [f"acc{i}"]),
            helper.make_node("Cast", [f"acc{i}"], [f"f{i}"], to=TensorProto.FLOAT),
            helper.make_node("Mul", [f"f{i}", "s"], [f"p{i}"]),
            helper.make_node("Add", [f"p{i}", "b"], [f"y{i}"]),
        ]
    outputs: list[Output] = [(f"y{i}", np.float32, (x.shape[0], weights[0].shape[1])) for i in range(len(weights))]
    return model(nodes, x, outputs, {"sw": scale, "b": bias} | _numbered(weights, np.zeros((), np.int8)))


def qdq_linear(x: Array, weights: Sequence[Array], scales: Scales, zero_points: tuple[int, int], bias: Array) -> bytes:
    """uint8 in and out, Q and DQ around a float product: how OpenVINO is given int8."""
    nodes = [helper.make_node("DequantizeLinear", ["x", "sx", "zx"], ["xf"])]
    for i in range(len(weights)):
        nodes += [
            helper.make_node("DequantizeLinear", [f"w{i}", "sw", f"zw{i}"], [f"wf{i}"], axis=1),
            helper.make_node("MatMul", ["xf", f"wf{i}"], [f"p{i}"]),
            helper.make_node("Add", [f"p{i}", "b"], [f"f{i}"]),
            helper.make_node("QuantizeLinear", [f"f{i}", "sy", "zy"], [f"y{i}"]),
        ]
    outputs: list[Output] = [(f"y{i}", x.dtype.type, (x.shape[0], weights[0].shape[1])) for i in range(len(weights))]
    constants = _maps(x, scales, zero_points) | {"b": bias}
    return model(nodes, x, outputs, constants | _numbered(weights, np.zeros_like(constants["sw"], np.int8)))


def matmul_4bits(x: Array, w: Array, copies: int, scale: Array, group: int) -> bytes:
    """onnxruntime's int4 product with int8 activations; w (K, N) in [-8, 7], columns rolled from copy to copy.

    All columns share their ``scale`` (K / group, N).
    """
    depth, columns = w.shape
    settings = {"K": depth, "N": columns, "bits": 4, "block_size": group, "accuracy_level": 4}
    constants = {"s": np.ascontiguousarray(scale.T).reshape(-1)}
    codes = np.ascontiguousarray(w.T + 8).astype(np.uint8).reshape(columns, depth // group, group)
    packed, nodes = codes[..., 0::2] | (codes[..., 1::2] << 4), []
    for i in range(copies):
        constants[f"w{i}"] = np.roll(packed, i, axis=0)
        names = ["x", f"w{i}", "s"], [f"y{i}"]
        nodes.append(helper.make_node("MatMulNBits", *names, domain="com.microsoft", **settings))
    outputs: list[Output] = [(f"y{i}", np.float32, (x.shape[0], columns)) for i in range(copies)]
    return model(nodes, x, outputs, constants)


class Conv(NamedTuple):
    """A layer with a square image and an odd square kernel, padded so that stride 1 keeps the size."""

    channels: int
    filters: int
    image: int
    kernel: int
    stride: int = 1
    groups: int = 1

    @property
    def operations(self) -> int:
        side = -(-self.image // self.stride)
        return 2 * side * side * self.filters * self.channels // self.groups * self.kernel**2

    def __str__(self) -> str:
        kind = "depthwise " if self.groups > 1 else ""
        return (
            f"{kind}{self.kernel}x{self.kernel}/{self.stride} {self.channels}->{self.filters} {self.image}x{self.image}"
        )


def qdq_conv(layer: Conv, rng: np.random.Generator) -> tuple[bytes, Array]:
    """uint8 in and out, per-channel weights, ReLU; the model and an input for it."""
    x = rng.integers(0, 256, (1, layer.channels, layer.image, layer.image), dtype=np.uint8)
    fan_in = layer.channels // layer.groups * layer.kernel**2
    shape = (layer.filters, layer.channels // layer.groups, layer.kernel, layer.kernel)
    w_scale = rng.uniform(0.5, 1.5, layer.filters).astype(np.float32) / np.float32(74 * np.sqrt(fan_in))
    constants: dict[str, Array] = {
        "w": rng.integers(-127, 128, shape, dtype=np.int8),
        "sx": np.array(0.02, np.float32),
        "zx": np.array(128, np.uint8),
        "sw": w_scale,
        "zw": np.zeros(layer.filters, np.int8),
        "b": rng.integers(-500, 500, layer.filters, dtype=np.int32),
        "sb": w_scale * np.float32(0.02),
        "zb": np.zeros(layer.filters, np.int32),
        "sy": np.array(0.03, np.float32),
        "zy": np.array(0, np.uint8),
    }
    settings: dict[str, Any] = {"strides": [layer.stride] * 2, "pads": [layer.kernel // 2] * 4, "group": layer.groups}
    nodes = [
        helper.make_node("DequantizeLinear", ["x", "sx", "zx"], ["xf"]),
        helper.make_node("DequantizeLinear", ["w", "sw", "zw"], ["wf"], axis=0),
        helper.make_node("DequantizeLinear", ["b", "sb", "zb"], ["bf"], axis=0),
        helper.make_node("Conv", ["xf", "wf", "bf"], ["conv"], name="conv", **settings),
        helper.make_node("Relu", ["conv"], ["relu"]),
        helper.make_node("QuantizeLinear", ["relu", "sy", "zy"], ["y"]),
    ]
    side = -(-layer.image // layer.stride)
    return model(nodes, x, [("y", np.uint8, (1, layer.filters, side, side))], constants), x
