"""The families of operators, and which nodes are a function of one tensor, element by element."""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from edgekern.graph.values import constant, float_constant, int_attribute, ints_attribute, scalar, shape_of

# One value in, one value out, element by element: 256 bytes say all about them.
_SIMPLE = ("Abs", "Ceil", "Erf", "Exp", "Floor", "Log", "Neg", "Reciprocal", "Round", "Sign", "Sqrt")
_CIRCLES = ("Acos", "Acosh", "Asin", "Asinh", "Atan", "Atanh", "Cos", "Cosh", "Sin", "Sinh", "Tan", "Tanh")
_LINEAR_UNITS = ("Celu", "Clip", "Elu", "LeakyRelu", "Relu", "Selu", "ThresholdedRelu")
_SMOOTH_UNITS = ("Gelu", "HardSigmoid", "HardSwish", "Mish", "Sigmoid", "Softplus", "Softsign", "Swish")
QDQ = frozenset({"QuantizeLinear", "DequantizeLinear"})
# Of models whose quantization is written in integers, as onnxruntime's quantize_dynamic and QOperator format do.
INTEGER = frozenset(
    {
        "ConvInteger",
        "DynamicQuantizeLinear",
        "DynamicQuantizeLSTM",
        "MatMulInteger",
        "QGemm",
        "QLinearConv",
        "QLinearMatMul",
    }
)
PRODUCTS = frozenset({"Conv", "Gemm", "MatMul"})
MAXIMA = frozenset({"MaxPool", "GlobalMaxPool"})
AVERAGES = frozenset({"AveragePool", "GlobalAveragePool", "ReduceMean"})
CLAMPS = frozenset({"Relu", "Clip"})
SOFTMAX = frozenset({"Softmax"})
# What onnxruntime's optimizer makes of products, and how a file says in any domain of its own that it has been there.
_OPTIMIZED = frozenset(
    {"FusedConv", "FusedGemm", "FusedMatMul", "FusedMatMulActivation", "NhwcFusedConv", "NhwcMaxPool", "QGemm"}
    | {"QLinear" + name for name in ("Add", "AveragePool", "Concat", "Conv", "GlobalAveragePool", "LeakyRelu", "Mul")}
    | {"QLinear" + name for name in ("Sigmoid", "Softmax", "Where")}
)
OPTIMIZED = "the file was optimized for onnxruntime"
_OPTIMIZED_DOMAINS = ("com.microsoft.nchwc", "com.ms.internal.nhwc")
# ONNX's inference and onnxruntime count the sides of their results differently: of the first where certain attributes
# say so, of the second by the values of their operands.
COUNTED_BY_ATTRIBUTES = frozenset({"AveragePool", "MaxPool", "LpPool", "ConvTranspose"})
COUNTED_BY_OPERANDS = frozenset({"Slice", "Resize"})
_REDUCTIONS = ("L1", "L2", "LogSum", "LogSumExp", "Max", "Mean", "Min", "Prod", "Sum", "SumSquare")
_ONE_SIZE = ("AffineGrid", "CenterCropPad", "Compress", "Expand", "OneHot", "Reshape", "Split", "SplitToSequence")
_ONE_AXIS = ("Squeeze", "Tile", "TopK", "Unsqueeze", *("Reduce" + name for name in _REDUCTIONS))
_ONE_PLACE = ("SequenceAt", "SequenceErase")  # the tensors of a sequence differ in shape
# Operators whose results have a shape that follows from the values that they read, of those inputs.
SHAPED_BY_VALUES: dict[str, tuple[int, ...]] = {
    **dict.fromkeys(("BlackmanWindow", "ConstantOfShape", "HammingWindow", "HannWindow", "If"), (0,)),
    **dict.fromkeys(("ImageDecoder", "NonZero", "StringSplit", "Unique"), (0,)),
    **dict.fromkeys(_ONE_SIZE + _ONE_AXIS + _ONE_PLACE, (1,)),
    **dict.fromkeys(("Col2Im", "DFT"), (1, 2)),
    **dict.fromkeys(("Pad", "STFT"), (1, 3)),
    **dict.fromkeys(("MelWeightMatrix", "Range"), (0, 1, 2)),
    **dict.fromkeys(("Resize", "Upsample"), (1, 2, 3)),
    "Loop": (0, 1),
    "MaxUnpool": (2,),
    "NonMaxSuppression": (0, 1, 2, 3, 4),
    "SequenceInsert": (2,),
    "Slice": (1, 2, 3, 4),
}
SEES_SHAPES = frozenset({"Shape", "Size"})
RANDOM = frozenset(
    {"RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike", "Bernoulli", "Multinomial"}
)
UNARY = frozenset(_SIMPLE + _CIRCLES + _LINEAR_UNITS + _SMOOTH_UNITS)
WITH_CONSTANT = frozenset({"Add", "Sub", "Mul", "Div", "Pow", "Min", "Max", "PRelu"})
AFFINE = frozenset({"Add", "Sub", "Mul", "Div"})
RESHAPES = frozenset({"Reshape", "Flatten", "Squeeze", "Unsqueeze", "Identity"})
MOVES = RESHAPES | {"Transpose", "Slice", "Pad", "Split"}
# What gets QuantizeLinear and DequantizeLinear wherever 8 bits come in or are wanted; other element-wise functions only
# where both holds.
ACTIVATIONS = frozenset({"Relu", "Clip", "LeakyRelu", "Sigmoid", "Tanh", "HardSigmoid", "HardSwish", "Elu", "Softplus"})
ARITHMETIC = ACTIVATIONS | AVERAGES | {"Add", "Concat"}


def is_optimized(node: ir.Node) -> bool:
    """Whether only onnxruntime's optimizer writes such a node: the file was made for one kind of machine."""
    return node.domain in _OPTIMIZED_DOMAINS or (node.domain == "com.microsoft" and node.op_type in _OPTIMIZED)


def limits(node: ir.Node) -> tuple[float, float] | None:
    """The interval of a Relu, or of a Clip with constant limits."""
    if node.domain != "" or node.op_type not in CLAMPS:
        return None
    if node.op_type == "Relu":
        return 0.0, math.inf
    found = [-math.inf, math.inf]
    for at, value in enumerate(node.inputs[1:3]):
        limit = found[at] if value is None else scalar(value)
        if limit is None or math.isnan(limit):
            return None
        found[at] = limit
    return found[0], found[1]


def result_range(node: ir.Node | None, lo: float, hi: float) -> tuple[float, float]:
    """The range of a node's result, given what calibration has seen of it: no further than the operator reaches."""
    if node is None or node.domain != "":
        return lo, hi
    least, most = limits(node) or (-math.inf, math.inf)
    if node.op_type in ("Sigmoid", "HardSigmoid"):
        least, most = 0.0, 1.0
    elif node.op_type in SOFTMAX:
        least, most = 0.0, 255 / 256  # where that was reached, u8 has scale 1/256, as other tools have it
    return max(lo, least), min(hi, most)


def takes_bytes(node: ir.Node) -> bool:
    """Whether a moving or arithmetic operator has a form that 8 bits allow.

    Clip: constant limits. Pad: with zero. Softmax: over the last axis. ReduceMean: over height and width of an image.
    """
    if node.op_type == "ReduceMean":
        return averages_image(node)
    if node.op_type in SOFTMAX:
        rank = len(shape) if node.inputs[0] is not None and (shape := node.inputs[0].shape) is not None else 0
        return int_attribute(node, "axis", -1) in (-1, rank - 1)
    if node.op_type == "Pad":
        filler = node.inputs[2] if len(node.inputs) > 2 else None
        return filler is None or scalar(filler) == 0
    return node.op_type not in CLAMPS or limits(node) is not None


def affine(node: ir.Node) -> tuple[ir.Value, npt.NDArray[np.float64], npt.NDArray[np.float64]] | None:
    """``x, factor, shift`` of an operator that gives ``x * factor + shift`` with constants of one shape, else None."""
    if node.domain != "" or node.op_type not in AFFINE:
        return None
    for at in (0, 1):
        x, given = node.inputs[at], float_constant(node.inputs[1 - at])
        if x is None or given is None or float_constant(x) is not None:
            continue
        wide = given.astype(np.float64)
        zeros, ones = np.zeros_like(wide), np.ones_like(wide)
        if node.op_type == "Add":
            return x, ones, wide
        if node.op_type == "Sub":
            return (x, ones, -wide) if at == 0 else (x, -ones, wide)
        if node.op_type == "Mul":
            return x, wide, zeros
        return (x, 1 / wide, zeros) if at == 0 and wide.all() else None
    return None


def averages_image(node: ir.Node) -> bool:
    """Whether a ReduceMean is one over the two axes of an image, as GlobalAveragePool is."""
    axes = ints_attribute(node, "axes", [])
    if len(node.inputs) > 1 and (given := constant(node.inputs[1])) is not None:
        axes = [int(axis) for axis in given.reshape(-1)]
    x = node.inputs[0]
    return x is not None and x.shape is not None and len(x.shape) == 4 and sorted(axis % 4 for axis in axes) == [2, 3]


def is_scalar(value: ir.Value | None, rank: int) -> bool:
    """Whether a value is a constant of one element that does not raise the rank of what it meets."""
    real = float_constant(value)
    array = constant(value) if real is None else real
    return array is not None and array.size == 1 and array.ndim <= rank


def elementwise_operands(node: ir.Node) -> list[ir.Value] | None:
    """The operands of an element-wise function of one tensor, constants left out; None for any other operator."""
    found, shape = _operands(node), shape_of(node.outputs[0])
    if not found or shape is None:
        return None
    return found if node.op_type in UNARY or all(shape_of(value) == shape for value in found) else None


def _operands(node: ir.Node) -> list[ir.Value] | None:
    """The same, where nothing is known of the shapes but their number of axes."""
    if node.domain != "" or len(node.outputs) != 1:
        return None
    if node.op_type in UNARY:
        if node.op_type == "Clip" and limits(node) is None:
            return None
        return [value for value in node.inputs[:1] if value is not None]
    if node.op_type not in WITH_CONSTANT:
        return None
    shape = node.outputs[0].shape
    rank = 0 if shape is None else len(shape)
    return [value for value in node.inputs if value is not None and not is_scalar(value, rank)] or None


@dataclass(frozen=True)
class Formula:
    """Nodes that together compute a function of one tensor, element by element.

    Attributes
    ----------
    root : what it is a function of
    nodes : in the order of the graph; the last one gives the result
    """

    root: ir.Value
    nodes: tuple[ir.Node, ...]


def formulas(graph: ir.Graph, borders: Iterable[ir.Value] = ()) -> dict[ir.Node, Formula]:
    """Every function of one tensor, whether one node computes it or several, by its last node.

    What lies within one is read by its own nodes only: a result that others read as well ends one, and begins the next.

    Parameters
    ----------
    borders : results that end a formula in any case
    """
    elementwise = {node: found for node in graph if (found := _operands(node))}
    roots = _Roots(elementwise, set(borders))
    asked = roots.settle(elementwise)
    while mixed := [node for node in asked if roots.is_mixed(node)]:
        roots.ends.update(node.outputs[0] for node in mixed)
        asked = roots.settle(mixed)
    made = {}
    for node in elementwise:
        of, result = roots.root.get(node), node.outputs[0]
        if of is not None and (
            result in roots.ends or not any(roots.root.get(reader) is of for reader, _ in result.uses())
        ):
            nodes = _nodes_of(node, of, elementwise, roots.base)
            made[node] = Formula(of, tuple(sorted(nodes, key=roots.order.__getitem__)))
    return made


class _Roots:
    """What each node is a function of, kept up to date while more and more results end a formula.

    Attributes
    ----------
    root : of nodes that are a function of one tensor
    base : what their results are a function of for those who read them
    """

    def __init__(self, elementwise: Mapping[ir.Node, list[ir.Value]], ends: set[ir.Value]) -> None:
        self.elementwise, self.ends = elementwise, ends
        self.nodes = list(elementwise)
        self.order = {node: at for at, node in enumerate(self.nodes)}
        self.root: dict[ir.Node, ir.Value] = {}
        self.base: dict[ir.Value, ir.Value] = {}

    def settle(self, waiting: Iterable[ir.Node]) -> list[ir.Node]:
        """Look at some nodes, and at whoever reads what has changed; those that may be mixed now, in order."""
        places = sorted(self.order[node] for node in waiting)  # sorted is a heap
        known = set(places)
        touched = set(places)
        while places:
            at = heapq.heappop(places)
            known.discard(at)
            node = self.nodes[at]
            result = node.outputs[0]
            found = {self.base.get(value, value) for value in self.elementwise[node]}
            root = found.pop() if len(found) == 1 else None
            base = result if root is not None and result in self.ends else root
            if self.root.get(node) is root and self.base.get(result) is base:
                continue
            for kept, key, value in ((self.root, node, root), (self.base, result, base)):
                _set(kept, key, value)
            readers = {self.order[reader] for reader, _ in result.uses() if reader in self.order}
            for reader in readers - known:
                heapq.heappush(places, reader)
            known |= readers
            makers = (value.producer() for value in self.elementwise[node])
            touched |= {at} | {self.order[maker] for maker in makers if maker in self.order}
        return [self.nodes[at] for at in sorted(touched)]

    def is_mixed(self, node: ir.Node) -> bool:
        """Whether its result is read within its formula and by others as well."""
        of, result = self.root.get(node), node.outputs[0]
        if of is None or result in self.ends:
            return False
        readers = [self.root.get(reader) is of for reader, _ in result.uses()]
        return any(readers) and (result.is_graph_output() or not all(readers))


def _set(kept: dict[Any, ir.Value], key: object, value: ir.Value | None) -> None:
    if value is None:
        kept.pop(key, None)
    else:
        kept[key] = value


def _nodes_of(
    last: ir.Node, root: ir.Value, elementwise: Mapping[ir.Node, list[ir.Value]], base: Mapping[ir.Value, ir.Value]
) -> set[ir.Node]:
    """The nodes that lead from a root to a result."""
    nodes, waiting = set(), [last]
    while waiting:
        node = waiting.pop()
        if node in nodes:
            continue
        nodes.add(node)
        producers = (value.producer() for value in elementwise[node] if value is not root and base[value] is root)
        waiting += [producer for producer in producers if producer is not None]
    return nodes
