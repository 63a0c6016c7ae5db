"""Float nets that nobody wrote, as exporters write them: of any opset that the installed onnx defines.

Convolutions of all kinds, pools with every rounding and padding, resizing, residual sums, layout chains, bodies of
If and Loop, constants computed from constants.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from edgekern.graph.opset import OLDEST_OPSET, newest_opset

from graphs import Array


@dataclass(frozen=True)
class At:
    """A tensor of a net: its name, its channels, and what its height and width are at least."""

    name: str
    channels: int
    height: int
    width: int


class Net:
    """A float net under construction, from one image to any number of results."""

    def __init__(self, draw: st.DrawFn) -> None:
        self.draw = draw
        self.opset = draw(st.integers(OLDEST_OPSET, newest_opset()))
        self.rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self.count = 0

    def whole(self, low: int, high: int) -> int:
        return self.draw(st.integers(low, high))

    def flip(self) -> bool:
        return self.draw(st.booleans())

    def name(self, stem: str) -> str:
        self.count += 1
        return f"{stem}_{self.count}"

    def const(self, values: npt.ArrayLike, dtype: npt.DTypeLike = np.float32) -> str:
        """An initializer, or a Constant node, or one that an Identity hands on."""
        array, name = np.asarray(values, dtype), self.name("c")
        how = self.whole(0, 9)
        if how == 0:
            self.nodes.append(helper.make_node("Constant", [], [name], value=numpy_helper.from_array(array, name)))
            return name
        self.constants.append(numpy_helper.from_array(array, name))
        return self.op("Identity", name) if how == 1 else name

    def normal(self, *shape: int, scale: float = 1.0) -> Array:
        return self.rng.normal(0, scale, shape).astype(np.float32)

    def op(self, kind: str, *inputs: str, outputs: int = 1, **attributes: Any) -> Any:
        names = [self.name(kind.lower()) for _ in range(outputs)]
        attributes = {key: value for key, value in attributes.items() if value is not None}
        self.nodes.append(helper.make_node(kind, inputs, names, name=self.name("n"), **attributes))
        return names[0] if outputs == 1 else names

    def axes(self, kind: str, x: str, axes: list[int], since: int = 13, **attributes: Any) -> str:
        """Axes are an input since an opset, and an attribute before."""
        if self.opset < since:
            return self.op(kind, x, axes=axes, **attributes)
        return self.op(kind, x, self.const(axes, np.int64), **attributes)

    def reshape(self, x: str, shape: list[int]) -> str:
        return self.op("Reshape", x, self.const(shape, np.int64))

    def model(self, inputs: list[onnx.ValueInfoProto], results: dict[str, int]) -> onnx.ModelProto:
        """``results``: the ranks of the outputs, by name."""
        outputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [None] * n) for name, n in results.items()]
        graph = helper.make_graph(self.nodes, "net", inputs, outputs)
        graph.initializer.extend(self.constants)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", self.opset)], ir_version=8)


def _conv(net: Net, x: At) -> At:
    group = net.draw(st.sampled_from([1, 1, 1, x.channels]))
    channels = x.channels * net.whole(1, 2) if group > 1 else net.whole(1, 20)
    kernel = [min(net.whole(1, 3), side) for side in (x.height, x.width)]
    pads = [net.whole(0, k - 1) for k in (*kernel, *kernel)]
    strides = [net.whole(1, 2), net.whole(1, 2)]
    weights = net.const(net.normal(channels, x.channels // group, *kernel, scale=(x.channels // group) ** -0.5))
    bias = [net.const(net.normal(channels, scale=0.3))] if net.flip() else []
    y = net.op("Conv", x.name, weights, *bias, group=group, pads=pads, strides=strides)
    sides = [(side - k) // s + 1 for side, k, s in zip((x.height, x.width), kernel, strides, strict=True)]
    return At(y, channels, *sides)


def _same(net: Net, x: At, channels: int | None = None) -> At:
    """A convolution that keeps height and width."""
    channels = x.channels if channels is None else channels
    side = net.draw(st.sampled_from([1, 3]))
    weights = net.const(net.normal(channels, x.channels, side, side, scale=(x.channels * side) ** -0.5))
    return replace(x, name=net.op("Conv", x.name, weights, pads=[side // 2] * 4), channels=channels)


def _norm(net: Net, x: At) -> At:
    scale, shift, mean = (net.const(net.normal(x.channels)) for _ in range(3))
    variance = net.const(net.rng.uniform(0.3, 2, x.channels))
    return replace(x, name=net.op("BatchNormalization", x.name, scale, shift, mean, variance))


def _activation(net: Net, x: At) -> At:
    kinds = ["Relu", "LeakyRelu", "Sigmoid", "Tanh", "HardSigmoid", "Elu", "Softplus", "Clip", "PRelu", "SiLU", "Mish"]
    kind = net.draw(st.sampled_from(kinds + (["HardSwish"] if net.opset >= 14 else [])))
    if kind == "SiLU":
        return replace(x, name=net.op("Mul", x.name, net.op("Sigmoid", x.name)))
    if kind == "Mish":
        return replace(x, name=net.op("Mul", x.name, net.op("Tanh", net.op("Softplus", x.name))))
    if kind == "PRelu":
        return replace(x, name=net.op("PRelu", x.name, net.const(net.rng.uniform(0.05, 0.4, (x.channels, 1, 1)))))
    if kind == "Clip" and net.opset < 11:
        return replace(x, name=net.op("Clip", x.name, min=-0.5, max=2.0))
    limits = [net.const(limit) for limit in (-0.5, 2.0)] if kind == "Clip" else []
    return replace(x, name=net.op(kind, x.name, *limits))


def _pool(net: Net, x: At) -> At:
    kind = net.draw(st.sampled_from(["MaxPool", "AveragePool"]))
    kernel = [min(net.whole(1, 3), side) for side in (x.height, x.width)]
    strides = [net.whole(1, 3), net.whole(1, 3)]
    sides = [(side - k) // s + 1 for side, k, s in zip((x.height, x.width), kernel, strides, strict=True)]
    attributes: dict[str, Any] = {"kernel_shape": kernel, "strides": strides}
    if net.whole(0, 3) == 0:
        attributes["auto_pad"] = net.draw(st.sampled_from(["SAME_UPPER", "SAME_LOWER", "VALID"]))
    else:
        attributes["pads"] = [net.whole(0, k - 1) for k in (*kernel, *kernel)]
    if net.opset >= 10 and net.flip():
        attributes["ceil_mode"] = 1
    if kind == "AveragePool" and net.flip():
        attributes["count_include_pad"] = 1
    return At(net.op(kind, x.name, **attributes), x.channels, *sides)


def _resize(net: Net, x: At) -> At:
    scales = np.float32([1, 1, net.whole(1, 2), net.whole(1, 3)])
    mode = net.draw(st.sampled_from(["nearest", "linear"]))
    if net.opset < 9:
        y = net.op("Upsample", x.name, mode=mode, scales=[float(scale) for scale in scales])
    elif net.opset == 9:
        y = net.op("Upsample", x.name, net.const(scales), mode=mode)
    elif net.opset == 10:
        y = net.op("Resize", x.name, net.const(scales), mode=mode)
    else:
        roi = net.const(np.zeros(0)) if net.opset < 13 else ""
        how = {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"} if mode == "nearest" else {}
        y = net.op("Resize", x.name, roi, net.const(scales), mode=mode, **how)
    return At(y, x.channels, x.height * int(scales[2]), x.width * int(scales[3]))


def _residual(net: Net, x: At) -> At:
    inner = _same(net, x)
    for _ in range(net.whole(0, 2)):
        inner = net.draw(st.sampled_from([_norm, _activation, _same]))(net, inner)
    return replace(x, name=net.op("Add", *net.draw(st.permutations([x.name, inner.name]))))


def _squeeze_excite(net: Net, x: At) -> At:
    pooled = replace(x, name=net.op("GlobalAveragePool", x.name), height=1, width=1)
    gate = net.op(net.draw(st.sampled_from(["Sigmoid", "HardSigmoid"])), _same(net, pooled).name)
    return replace(x, name=net.op("Mul", x.name, gate))


def _branches(net: Net, x: At) -> At:
    parts = [x, *(_same(net, x, net.whole(1, 5)) for _ in range(net.whole(1, 2)))]
    return replace(x, name=net.op("Concat", *(p.name for p in parts), axis=1), channels=sum(p.channels for p in parts))


def _halves(net: Net, x: At) -> At:
    if x.channels < 2:
        return x
    sizes = [x.channels // 2, x.channels - x.channels // 2]
    if net.opset < 13:
        first, second = net.op("Split", x.name, axis=1, split=sizes, outputs=2)
    else:
        first, second = net.op("Split", x.name, net.const(sizes, np.int64), axis=1, outputs=2)
    return replace(x, name=net.op("Concat", second, _activation(net, At(first, sizes[0], 1, 1)).name, axis=1))


def _layout(net: Net, x: At) -> At:
    kind = net.draw(st.sampled_from(["transpose", "flat", "unsqueeze", "slice", "pad", "shuffle"]))
    if kind == "transpose":
        inner = replace(x, name=net.op("Transpose", x.name, perm=[0, 2, 3, 1]))
        bent = net.op("Relu", inner.name) if net.flip() else inner.name
        return replace(x, name=net.op("Transpose", bent, perm=[0, 3, 1, 2]))
    if kind == "flat":
        flat = net.reshape(x.name, [0, x.channels, -1])
        return At(net.reshape(flat, [0, 0, 1, -1]), x.channels, 1, x.height * x.width)
    if kind == "unsqueeze":
        return replace(x, name=net.axes("Squeeze", net.axes("Unsqueeze", x.name, [1]), [1]))
    if kind == "slice" and x.height > 1:
        if net.opset < 10:
            y = net.op("Slice", x.name, axes=[2], starts=[1], ends=[1 << 30])
        else:
            y = net.op("Slice", x.name, *(net.const([v], np.int64) for v in (1, 1 << 30, 2)))
        return replace(x, name=y, height=x.height - 1)
    if kind == "pad":
        if net.opset < 11:
            return replace(x, name=net.op("Pad", x.name, pads=[0, 0, 1, 0, 0, 0, 0, 1]))
        return replace(x, name=net.op("Pad", x.name, net.const([0, 0, 1, 0, 0, 0, 0, 1], np.int64)))
    if kind == "shuffle" and x.channels % 2 == 0:
        split = net.reshape(x.name, [0, 2, x.channels // 2, -1])
        y = net.reshape(net.op("Transpose", split, perm=[0, 2, 1, 3]), [0, x.channels, 1, -1])
        return At(y, x.channels, 1, x.height * x.width)
    return x


def _arithmetic(net: Net, x: At) -> At:
    """With a constant that is computed from one, as exporters leave them."""
    kind = net.draw(st.sampled_from(["Add", "Sub", "Mul", "Div"]))
    size = net.draw(st.sampled_from([1, x.channels]))
    values = net.rng.uniform(0.5, 2, size)
    y = net.reshape(net.const(values), [1, size, 1, 1]) if net.flip() else net.const(values.reshape(size, 1, 1))
    operands = [x.name, y] if kind in ("Sub", "Div") else net.draw(st.permutations([x.name, y]))
    return replace(x, name=net.op(kind, *operands))


def _branch_on_data(net: Net, x: At) -> At:
    """An If whose bodies read tensors and constants of the graph around them, or slide windows over one."""
    if net.opset >= 10 and net.whole(0, 3) == 0:
        return _pools_on_data(net, x)
    outer = net.const(net.rng.uniform(0.5, 2, (x.channels, 1, 1)))
    highest = net.op("ReduceMax", x.name, keepdims=0)  # of all axes, in every opset
    takes_then = net.flip()
    condition = net.op("Greater", highest, net.const(-1e6 if takes_then else 1e6))
    bodies = []
    for stem in ("then", "else"):
        name = net.name(stem)
        made = [
            lambda name=name: [helper.make_node("Identity", [x.name], [name])],
            lambda name=name: [helper.make_node("Mul", [x.name, outer], [name])],
            lambda name=name: [
                helper.make_node("Relu", [x.name], [f"{name}_inner"]),
                helper.make_node("Add", [f"{name}_inner", outer], [name]),
            ],
        ][net.whole(0, 2)]()
        result = helper.make_tensor_value_info(name, TensorProto.FLOAT, [None] * 4)
        bodies.append(helper.make_graph(made, stem, [], [result]))
    return replace(x, name=net.op("If", condition, then_branch=bodies[0], else_branch=bodies[1]))


def _pools_on_data(net: Net, x: At) -> At:
    """Whose windows onnxruntime and ONNX's inference may count differently."""
    pooled = _pool(net, x)
    window = net.nodes.pop()
    highest = net.op("ReduceMax", x.name, keepdims=0)
    condition = net.op("Greater", highest, net.const(-1e6 if net.flip() else 1e6))
    bodies = []
    for stem in ("then", "else"):
        inside = onnx.NodeProto()
        inside.CopyFrom(window)
        inside.name, inside.output[0] = "", net.name(stem)
        result = helper.make_tensor_value_info(inside.output[0], TensorProto.FLOAT, [None] * 4)
        bodies.append(helper.make_graph([inside], stem, [], [result]))
    return replace(pooled, name=net.op("If", condition, then_branch=bodies[0], else_branch=bodies[1]))


def _loop(net: Net, x: At) -> At:
    """Two turns of a Loop whose body reads a constant of the graph around it."""
    outer, old, new = net.const(net.rng.uniform(0.5, 1, (x.channels, 1, 1))), net.name("old"), net.name("new")
    again, going = net.name("again"), net.name("going")
    nodes = [helper.make_node("Mul", [old, outer], [new]), helper.make_node("Identity", [again], [going])]
    scalar, image = [TensorProto.BOOL, []], [TensorProto.FLOAT, [None] * 4]
    inputs = [
        helper.make_tensor_value_info(net.name("turn"), TensorProto.INT64, []),
        helper.make_tensor_value_info(again, *scalar),
        helper.make_tensor_value_info(old, *image),
    ]
    results = [helper.make_tensor_value_info(going, *scalar), helper.make_tensor_value_info(new, *image)]
    body = helper.make_graph(nodes, "body", inputs, results)
    return replace(x, name=net.op("Loop", net.const(2, np.int64), net.const(True, np.bool_), x.name, body=body))


def _transposed(net: Net, x: At) -> At:
    channels = net.whole(1, 6)
    weights = net.const(net.normal(x.channels, channels, 2, 2, scale=x.channels**-0.5))
    y = net.op("ConvTranspose", x.name, weights, strides=[2, 2])
    return At(y, channels, 2 * x.height, 2 * x.width)


def _moves(net: Net, x: At) -> At:
    """What exporters write for chunks, permutations and repetitions of channels."""
    kind = net.draw(st.sampled_from(["gather", "tile", "expand", "mean", "softmax"]))
    if kind == "gather":
        indices = net.rng.integers(0, x.channels, net.whole(1, 6))
        return replace(x, name=net.op("Gather", x.name, net.const(indices, np.int64), axis=1), channels=len(indices))
    if kind == "tile":
        return replace(x, name=net.op("Tile", x.name, net.const([1, 2, 1, 1], np.int64)), channels=2 * x.channels)
    if kind == "mean":
        attributes = {"keepdims": 1}
        return replace(x, name=net.axes("ReduceMean", x.name, [2, 3], since=18, **attributes), height=1, width=1)
    if kind == "softmax":
        return replace(x, name=net.op("Softmax", x.name, axis=net.draw(st.sampled_from([1, 3]))))
    if net.opset < 8:
        return x
    pooled = net.op("GlobalAveragePool", x.name)
    spread = net.op("Expand", pooled, net.op("Shape", x.name))
    return replace(x, name=net.op("Sub", x.name, spread))


def _matrix(net: Net, x: At) -> At:
    """A product along the channels of a sequence, as transformers have it."""
    rows = net.op("Transpose", net.reshape(x.name, [0, x.channels, -1]), perm=[0, 2, 1])
    columns = net.whole(1, 9)
    y = net.op("MatMul", rows, net.const(net.normal(x.channels, columns, scale=x.channels**-0.5)))
    if net.flip():
        y = net.op("Add", y, net.const(net.normal(columns)))
    back = net.reshape(net.op("Transpose", y, perm=[0, 2, 1]), [0, columns, 1, -1])
    return At(back, columns, 1, x.height * x.width)


def _head(net: Net, x: At) -> tuple[str, int]:
    """Pool, flatten, multiply by a matrix; the weights may be stored the other way round."""
    pooled = net.op("GlobalAveragePool", x.name)
    kind = net.draw(st.sampled_from(["Gemm", "MatMul", "Transposed", "Vector"]))
    flat = [_by_flatten, _by_squeeze, _by_shape][net.whole(0, 2)](net, pooled)
    if kind == "Vector":
        return net.op("MatMul", flat, net.const(net.normal(x.channels))), 1
    columns = net.whole(1, 7)
    weights = net.normal(x.channels, columns)
    if kind == "Gemm":
        return net.op("Gemm", flat, net.const(weights.T), net.const(net.normal(columns)), transB=1), 2
    w = net.op("Transpose", net.const(weights.T), perm=[1, 0]) if kind == "Transposed" else net.const(weights)
    return net.op("Add", net.op("MatMul", flat, w), net.const(net.normal(columns))), 2


def _by_flatten(net: Net, pooled: str) -> str:
    return str(net.op("Flatten", pooled))


def _by_squeeze(net: Net, pooled: str) -> str:
    return net.axes("Squeeze", pooled, [2, 3])


def _by_shape(net: Net, pooled: str) -> str:
    """As PyTorch writes ``view(x.size(0), -1)``."""
    first = net.op("Gather", net.op("Shape", pooled), net.const(0, np.int64), axis=0)
    sides = [net.axes("Unsqueeze", first, [0]), net.const([-1], np.int64)]
    return str(net.op("Reshape", pooled, net.op("Concat", *sides, axis=0)))


BLOCKS: list[Callable[[Net, At], At]] = [
    *[_conv, _conv, _same, _norm, _activation, _activation, _pool, _pool, _resize, _residual, _residual],
    *[_squeeze_excite, _branches, _halves, _layout, _layout, _arithmetic, _branch_on_data, _loop],
    *[_transposed, _moves, _moves, _matrix],
]


@st.composite
def random_nets(draw: st.DrawFn) -> tuple[onnx.ModelProto, list[Array]]:
    """A float net and three batches for its input ``x``."""
    net = Net(draw)
    shape = [draw(st.integers(1, 2)), draw(st.integers(1, 6)), draw(st.integers(3, 11)), draw(st.integers(3, 11))]
    batch = draw(st.sampled_from([shape[0], "n"]))
    x = At("x", *shape[1:])
    results: dict[str, int] = {}
    for block in draw(st.lists(st.sampled_from(BLOCKS), min_size=1, max_size=9)):
        x = block(net, x)
        if net.whole(0, 9) == 5:
            results[x.name] = 4
    name, rank = _head(net, x) if net.flip() else (x.name, 4)
    results[name] = rank
    if net.whole(0, 9) == 5:
        results[net.const(net.normal(3))] = 1  # anchors, say
    if "x" in results:
        results = {name: rank for name, rank in results.items() if name != "x"} or {net.op("Relu", "x"): 4}
    model = net.model([helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, *shape[1:]])], results)
    return model, [net.normal(*shape) for _ in range(3)]
