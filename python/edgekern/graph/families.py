"""The families of operators."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from edgekern.graph.values import (
    constant,
    float_attribute,
    float_constant,
    int_attribute,
    ints_attribute,
    is_constant,
    scalar,
    text_attribute,
)

# One value in, one value out, element by element: 256 bytes say all about them.
_SIMPLE = ("Abs", "Ceil", "Erf", "Exp", "Floor", "Log", "Neg", "Reciprocal", "Round", "Sign", "Sqrt")
_CIRCLES = ("Acos", "Acosh", "Asin", "Asinh", "Atan", "Atanh", "Cos", "Cosh", "Sin", "Sinh", "Tan", "Tanh")
_LINEAR_UNITS = ("Celu", "Clip", "Elu", "LeakyRelu", "Relu", "Selu", "ThresholdedRelu")
_SMOOTH_UNITS = ("Gelu", "HardSigmoid", "HardSwish", "Mish", "Sigmoid", "Softplus", "Softsign", "Swish")
QDQ = frozenset({"QuantizeLinear", "DequantizeLinear"})
# Of models whose quantization is written in integers: by onnxruntime's quantize_dynamic, in its QOperator format, or by
# its optimizer of a QDQ model.
_QLINEAR = (
    *("Add", "AveragePool", "Concat", "Conv", "GlobalAveragePool", "LeakyRelu", "MatMul", "Mul", "ReduceMean"),
    *("Sigmoid", "Softmax", "Where"),
)
_DYNAMIC = ("ConvInteger", "DynamicQuantizeLinear", "DynamicQuantizeLSTM", "DynamicQuantizeMatMul", "MatMulInteger")
INTEGER = frozenset(
    {*_DYNAMIC, "MatMulIntegerToFloat", "QAttention", "QEmbedLayerNormalization", "QGemm"}
    | {"QLinear" + name for name in _QLINEAR}
)
INTEGER_PRODUCTS = frozenset({"ConvInteger", "MatMulInteger"})  # of codes, in int32
CONVOLUTIONS = frozenset({"Conv", "ConvTranspose"})
_FLAT_IMAGE = 4  # axes
PRODUCTS = CONVOLUTIONS | {"Gemm", "MatMul"}
RECURRENT = frozenset({"LSTM", "GRU", "RNN"})
MAXIMA = frozenset({"MaxPool", "GlobalMaxPool"})
AVERAGES = frozenset({"AveragePool", "GlobalAveragePool", "ReduceMean"})
CLIP = "Clip"
CLAMPS = frozenset({"Relu", CLIP})
SOFTMAX = frozenset({"Softmax"})
# What onnxruntime's optimizers make of float nodes, and how a file says in any domain of its own that they have been
# there. The first have products inside, which nobody can quantize any more; the others stand beside theirs.
_FUSED_PRODUCTS = frozenset(
    {"Attention", "FusedConv", "FusedGemm", "FusedMatMul", "FusedMatMulActivation", "GemmFastGelu", "NhwcFusedConv"}
)
_FUSED = _FUSED_PRODUCTS | {
    *("BiasAdd", "BiasGelu", "BiasSoftmax", "BiasSplitGelu", "EmbedLayerNormalization", "FastGelu", "NhwcMaxPool"),
    *("SkipGroupNorm", "SkipLayerNormalization"),
}
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
LOOP, SCAN = "Loop", "Scan"  # what runs a body more than once
SEES_SHAPES = frozenset({"Shape", "Size"})
RANDOM = frozenset(
    {"RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike", "Bernoulli", "Multinomial"}
)
UNARY = frozenset(_SIMPLE + _CIRCLES + _LINEAR_UNITS + _SMOOTH_UNITS)
WITH_CONSTANT = frozenset({"Add", "Sub", "Mul", "Div", "Pow", "Min", "Max", "PRelu"})
AFFINE = frozenset({"Add", "Sub", "Mul", "Div"})
RESHAPES = frozenset({"Reshape", "Flatten", "Squeeze", "Unsqueeze", "Identity"})
SAME_VALUES = RESHAPES | {"Transpose"}
MOVES = SAME_VALUES | {"Slice", "Pad", "Split"}
PICKS = frozenset({"DepthToSpace", "SpaceToDepth", "Expand", "Gather", "Tile"})  # the first operand's elements, as well
RESIZES = frozenset({"Resize"})
# What attention is made of beside a Softmax, how operators are called that are all of it, and a table's look-up.
OF_ACTIVATIONS = frozenset({"MatMul", "Einsum"})
ATTENTION = frozenset({"Attention", "MultiHeadAttention", "GroupQueryAttention"})
# Which inputs of a norm over the last axis are constants for each channel; functions with f(s x) = s f(x) for s > 0.
NORM_CONSTANTS = {"LayerNormalization": (1, 2), "RMSNormalization": (1,), "SimplifiedLayerNormalization": (1,)}
HOMOGENEOUS = frozenset({"Relu", "LeakyRelu"})
CENTERED = "LayerNormalization"  # the norm that takes the mean away
REPEATED = "Expand"
CARRIED = MOVES | {"Cast", "Dropout"}
LOOKUP = "Gather"
# A front end's: what makes a number small or large by powers of ten, and what leads to such a number.
COMPRESSIONS = frozenset({"Log", "ReduceLogSum", "ReduceLogSumExp"})
POWERS = frozenset({"Pow", "Abs", "Sqrt", "ReduceL1", "ReduceL2", "ReduceSumSquare"})
# What gets QuantizeLinear and DequantizeLinear wherever 8 bits come in or are wanted; other element-wise functions only
# where both holds.
ACTIVATIONS = frozenset({"Relu", "Clip", "LeakyRelu", "Sigmoid", "Tanh", "HardSigmoid", "HardSwish", "Elu", "Softplus"})
# What brings numbers from one layer to the next as they are held, where at most one of its inputs is computed; and what
# stands between any two layers, and belongs to neither.
HANDING_ON = ACTIVATIONS | SAME_VALUES | {"Add", "Mul"}
JUNCTIONS = AVERAGES | {"Add", "Concat", "Sub"}
LEARNED = ACTIVATIONS - {"Clip"} | SOFTMAX  # what a front end does not have; a Clip may be the floor of its logarithm
ARITHMETIC = ACTIVATIONS | AVERAGES | {"Add", "Concat"}


def is_integer(node: ir.Node) -> bool:
    """Whether a node is quantized in integers: no float node to quantize, and none in QDQ form."""
    return node.domain in ("", "com.microsoft") and node.op_type in INTEGER


def is_optimized(node: ir.Node) -> bool:
    """Whether only onnxruntime's optimizers write such a node: the file was made for one kind of machine."""
    return node.domain in _OPTIMIZED_DOMAINS or (node.domain == "com.microsoft" and node.op_type in _FUSED)


def hides_products(node: ir.Node) -> bool:
    """Whether such a node has a product inside, or a result of a type that ONNX does not know: nothing to quantize."""
    beside = node.domain == "com.microsoft" and node.op_type not in _FUSED_PRODUCTS
    return is_optimized(node) and not (beside and node.outputs[0].dtype is not None)


def crops(node: ir.Node) -> bool:
    """Whether a Resize gives a value of its own to what lies outside of its image."""
    return text_attribute(node, "coordinate_transformation_mode", "half_pixel") == "tf_crop_and_resize"


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


def result_range(node: ir.Node | None, lo: float, hi: float, bits: int = 8) -> tuple[float, float]:
    """The range of a node's result, given what calibration has seen of it: no further than the operator reaches."""
    if node is None or node.domain != "":
        return lo, hi
    least, most = limits(node) or (-math.inf, math.inf)
    if node.op_type in ("Sigmoid", "HardSigmoid"):
        least, most = 0.0, 1.0
    elif node.op_type in SOFTMAX:
        least, most = 0.0, 1 - 0.5**bits  # where that was reached, u8 has scale 1/256, as other tools have it
    return min(max(lo, least), most), min(max(hi, least), most)


def read_range(node: ir.Node, step: float) -> tuple[float, float]:
    """The interval outside of which a function gives what it gives at the border, to an eighth of a ``step``.

    With a step of 0, exactly.
    """
    most, little = math.inf, min(step / 8, 0.5)
    if node.domain != "":
        return -most, most
    if little and node.op_type == "Tanh":
        most = math.atanh(1 - little)
    elif little and node.op_type == "Sigmoid":
        most = math.log(1 / little - 1)
    elif node.op_type == "HardSwish":
        return -3.0, most
    elif node.op_type == "HardSigmoid" and (alpha := float_attribute(node, "alpha", 0.2)) > 0:
        beta = float_attribute(node, "beta", 0.5)
        return -beta / alpha, (1 - beta) / alpha
    return limits(node) or (-most, most)


def takes_bytes(node: ir.Node) -> bool:
    """Whether a moving or arithmetic operator has a form that 8 bits allow.

    Clip: constant limits. Pad: with zero, or what it finds. Softmax: over the last axis. ReduceMean: over axes side by
    side, and no part of a norm. Resize: without a crop. Gather: from what is computed.
    """
    if node.op_type == "ReduceMean":
        return averages(node)
    if node.op_type in SOFTMAX:
        rank = len(shape) if node.inputs[0] is not None and (shape := node.inputs[0].shape) is not None else 0
        return int_attribute(node, "axis", -1) in (-1, rank - 1)
    if node.op_type == "Pad":
        filler = node.inputs[2] if len(node.inputs) > 2 else None
        return text_attribute(node, "mode", "constant") != "constant" or filler is None or scalar(filler) == 0
    if node.op_type in RESIZES:
        return not crops(node)
    if node.op_type in PICKS:
        return not is_constant(node.inputs[0])
    return node.op_type not in CLAMPS or limits(node) is not None


def convolves_bytes(node: ir.Node) -> bool:
    """Whether a product is no convolution, or one that has an integer kernel.

    Groups are over two dimensions at most, and a transposed convolution is over so many, without groups.
    """
    shape, alone = None if node.inputs[0] is None else node.inputs[0].shape, int_attribute(node, "group", 1) == 1
    if node.op_type not in CONVOLUTIONS or shape is None:
        return True
    flat = len(shape) <= _FLAT_IMAGE
    return flat and alone if node.op_type == "ConvTranspose" else flat or (alone and len(shape) == _FLAT_IMAGE + 1)


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


def batch_norm_affine(node: ir.Node) -> tuple[ir.Value, npt.NDArray[np.float64], npt.NDArray[np.float64]] | None:
    """The same of a BatchNormalization as inference has it, with a finite number for each channel."""
    if node.op_type != "BatchNormalization" or node.domain != "" or int_attribute(node, "training_mode", 0):
        return None
    x, statistics = node.inputs[0], [float_constant(value) for value in node.inputs[1:]]
    if x is None or len(statistics) != 4 or any(extra.uses() or extra.is_graph_output() for extra in node.outputs[1:]):
        return None
    found = [array.astype(np.float64) for array in statistics if array is not None]
    if len(found) != len(statistics):
        return None
    gamma, beta, mean, variance = found
    with np.errstate(divide="ignore", invalid="ignore"):
        factor = gamma / np.sqrt(variance + float_attribute(node, "epsilon", 1e-5))
        shift = beta - mean * factor
    return (x, factor, shift) if np.isfinite([factor, shift]).all() else None


def reduced_axes(node: ir.Node, rank: int) -> list[int]:
    """The axes of a reduction, given by attribute or input; all where none are given."""
    axes = ints_attribute(node, "axes", [])
    if len(node.inputs) > 1 and (given := constant(node.inputs[1])) is not None:
        axes = [int(axis) for axis in given.reshape(-1)]
    if not axes and not int_attribute(node, "noop_with_empty_axes", 0):
        axes = list(range(rank))
    return sorted({axis % rank for axis in axes}) if rank else []


def averages(node: ir.Node) -> bool:
    """Whether a ReduceMean is one over axes side by side whose result is not what its operand is centered by."""
    x = node.inputs[0]
    if x is None or x.shape is None:
        return False
    axes = reduced_axes(node, len(x.shape))
    centers = any(use.node.op_type == "Sub" and x in use.node.inputs for use in node.outputs[0].uses())
    return bool(axes) and axes == list(range(axes[0], axes[-1] + 1)) and not centers


def is_scalar(value: ir.Value | None, rank: int) -> bool:
    """Whether a value is a constant of one element that does not raise the rank of what it meets."""
    real = float_constant(value)
    array = constant(value) if real is None else real
    return array is not None and array.size == 1 and array.ndim <= rank
