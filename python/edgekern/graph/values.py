"""Reading an ONNX graph: constants, shapes, attributes, quantization parameters."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

Array = npt.NDArray[Any]
FloatArray = npt.NDArray[np.float32]
_CONSTANT = "edgekern.constant"
_FEW_BITS = {**dict.fromkeys(("int2", "int4"), np.int8), **dict.fromkeys(("uint2", "uint4"), np.uint8)}
_WEIGHT_MOVES = frozenset({"Transpose", "Reshape", "Flatten", "Squeeze", "Unsqueeze"})
HALVES = frozenset({ir.DataType.FLOAT16, ir.DataType.BFLOAT16})  # what Casts read and give


@dataclass(frozen=True)
class Quant:
    """Scale and zero point of a tensor of 8 or 16 bits: real = (q - zero_point) * scale."""

    scale: float  # a float32 value
    zero_point: int
    signed: bool
    bits: int = 8

    @property
    def lo(self) -> int:
        return -(1 << (self.bits - 1)) if self.signed else 0

    @property
    def hi(self) -> int:
        return self.lo + (1 << self.bits) - 1

    def quantize(self, x: npt.ArrayLike) -> npt.NDArray[np.int64]:
        """ONNX QuantizeLinear in float32; NaN gives the smallest value."""
        with np.errstate(over="ignore", invalid="ignore"):
            v = np.asarray(x, np.float32) / np.float32(self.scale)
        lo, hi = np.float32(self.lo - self.zero_point), np.float32(self.hi - self.zero_point)
        v = np.where(v > lo, v, lo)
        v = np.where(v < hi, v, hi)
        codes: npt.NDArray[np.int64] = np.rint(v).astype(np.int64) + self.zero_point
        return codes

    def dequantize(self, q: npt.ArrayLike) -> FloatArray:
        """ONNX DequantizeLinear in float32."""
        return (np.asarray(q, np.int64) - self.zero_point).astype(np.float32) * np.float32(self.scale)

    def codes(self) -> npt.NDArray[np.int64]:
        """The 256 values in the order of their bytes."""
        codes = np.arange(256)
        return np.where(codes < 128, codes, codes - 256) if self.signed else codes


@dataclass(frozen=True)
class Weights:
    """Constant int8 weights behind a DequantizeLinear, with their scale along ``axis``."""

    values: npt.NDArray[np.int8]
    scale: npt.NDArray[np.float32]  # one entry, or one a channel of ``axis``
    axis: int
    zero: npt.NDArray[np.int64] | None = None  # the same of what is still to be subtracted from ``values``, if anything


def constant(value: ir.Value | None) -> Array | None:
    """The array of an initializer, else None."""
    if value is None or not value.is_initializer() or value.const_value is None:
        return None
    return value.const_value.numpy()


def constant_or_dequantized(value: ir.Value | None) -> Array | None:
    """The array of an initializer, or of a dequantized one, else None."""
    array = constant(value)
    return float_constant(value) if array is None else array


def is_constant(value: ir.Value | None) -> bool:
    """Whether a value is an initializer or computed from nothing but initializers."""
    return value is None or value.is_initializer() or _CONSTANT in value.meta


def mark_constants(graph: ir.Graph) -> None:
    """Mark the values that dequantized weights lead to; :func:`is_constant` sees the marks."""
    for node in graph:
        if node.inputs and not captured(node):
            for result in node.outputs:
                result.meta[_CONSTANT] = True


def coded(node: ir.Node) -> ir.Value | None:
    """The integer side of a QuantizeLinear or DequantizeLinear: what it gives, or takes."""
    return node.outputs[0] if node.op_type == "QuantizeLinear" else node.inputs[0]


def is_code(value: ir.Value | None) -> bool:
    """Whether a value is of an 8-bit type itself, and no float value that 8 bits stand for."""
    return value is not None and value.dtype in (ir.DataType.UINT8, ir.DataType.INT8)


def float_constant(value: ir.Value | None) -> FloatArray | None:
    """The float32 array of an initializer or of a dequantized one, else None."""
    array = constant(value)
    if array is not None:
        return array if array.dtype == np.float32 else None
    producer = None if value is None else value.producer()
    if producer is None or producer.op_type != "DequantizeLinear":
        return None
    q, scale = constant(producer.inputs[0]), constant(producer.inputs[1])
    if q is None or scale is None or scale.dtype != np.float32 or scale.ndim > 1:
        return None
    if int_attribute(producer, "block_size", 0):
        return None
    zero_point = constant(producer.inputs[2]) if len(producer.inputs) > 2 else None
    zero = np.zeros(scale.shape, np.int64) if zero_point is None else zero_point.astype(np.int64)
    axis = int_attribute(producer, "axis", 1)
    wide = np.int32 if q.dtype.itemsize < 4 else np.int64
    steps = (q.astype(wide) - _along(zero, q.ndim, axis).astype(wide)).astype(np.float32)
    return np.asarray(steps * _along(scale, q.ndim, axis), np.float32)


def is_float_constant(value: ir.Value | None) -> bool:
    """Whether a value is a float32 initializer; its data is not read."""
    tensor = None if value is None or not value.is_initializer() else value.const_value
    return tensor is not None and tensor.dtype == ir.DataType.FLOAT


def scalar(value: ir.Value | None) -> float | None:
    """The number in a constant of one element, quantized or not, else None."""
    if value is not None and value.shape is not None and math.prod(shape_of(value) or ()) != 1:
        return None
    real = float_constant(value)
    array = constant(value) if real is None else real
    return float(array.reshape(-1)[0]) if array is not None and array.size == 1 else None


def quantized_weights(value: ir.Value | None, *, shifted: bool = False) -> Weights | str:
    """Int8 weights behind a DequantizeLinear (and Transposes, Reshapes), or the reason why they are none.

    With zero point 0, unless they may be ``shifted``.
    """
    moves: list[ir.Node] = []
    producer = None if value is None else value.producer()
    while producer is not None and producer.op_type in _WEIGHT_MOVES:
        moves.append(producer)
        source = producer.inputs[0]
        producer = None if source is None else source.producer()
    found = _dequantized_weights(producer)
    for node in reversed(moves):
        if isinstance(found, str):
            break
        found = _transposed(node, found) if node.op_type == "Transpose" else _reshaped(node, found)
    if isinstance(found, Weights) and found.zero is not None and not shifted:
        return "the zero point of its weights is not 0, and less it they are not int8"
    return found


def _transposed(node: ir.Node, found: Weights) -> Weights:
    perm = ints_attribute(node, "perm", list(range(found.values.ndim))[::-1])
    return Weights(found.values.transpose(perm), found.scale, perm.index(found.axis), found.zero)


def _reshaped(node: ir.Node, found: Weights) -> Weights | str:
    """In other axes, one of which has to be the one of the scales."""
    shape = shape_of(node.outputs[0])
    if shape is None or math.prod(shape) != found.values.size:
        return "the shape of its weights is not known"
    values = found.values.reshape(shape)
    if found.scale.size == 1:
        return Weights(values, found.scale, 0, found.zero)
    before, side = math.prod(found.values.shape[: found.axis]), found.values.shape[found.axis]
    same = [at for at in range(len(shape)) if shape[at] == side and math.prod(shape[:at]) == before]
    return Weights(values, found.scale, same[0], found.zero) if same else "its weight scales run along no axis"


def _dequantized_weights(producer: ir.Node | None) -> Weights | str:
    """The same, of the DequantizeLinear itself."""
    if producer is None or producer.op_type != "DequantizeLinear":
        return "its weights are not quantized"
    q, scale = constant(producer.inputs[0]), constant(producer.inputs[1])
    if q is None or scale is None:
        return "its weights are not constant"
    zero_point = constant(producer.inputs[2]) if len(producer.inputs) > 2 else None
    if q.dtype.name in _FEW_BITS:  # a byte holds them
        q = q.astype(_FEW_BITS[q.dtype.name])
        zero_point = zero_point if zero_point is None else zero_point.astype(q.dtype)
    if q.dtype not in (np.int8, np.uint8) or scale.dtype != np.float32 or scale.ndim > 1:
        return (
            f"its weights are {q.dtype} with {scale.dtype} scales, not int8 with float32 scales per tensor or channel"
        )
    if int_attribute(producer, "block_size", 0):
        return "its weights have a scale for each block"
    if zero_point is not None and zero_point.size not in (1, scale.size):
        return "its weights have not as many zero points as scales"
    if not (np.isfinite(scale).all() and (scale > 0).all()):
        return "a scale of its weights is not positive"
    axis = int_attribute(producer, "axis", 1) % q.ndim if q.ndim else 0
    values, zero = recentered(q, zero_point, axis)
    return Weights(values, scale.astype(np.float32).reshape(-1), axis, zero)


def recentered(
    q: Array, zero_point: Array | None, axis: int
) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.int64] | None]:
    """8-bit numbers less their zero point, as int8; where they do not fit, what is still to be subtracted from them.

    ``zero_point``: one, or one for each place along ``axis``.
    """
    middle = 128 if q.dtype == np.uint8 else 0
    zero = np.zeros(1, np.int64) if zero_point is None else zero_point.reshape(-1).astype(np.int64)
    values = q if q.dtype == np.int8 else (q ^ np.uint8(middle)).view(np.int8)  # minus 128 turns the top bit
    if (zero == middle).all():
        return values, None
    left = zero - middle
    shifted = values.astype(np.int16) - _along(left, q.ndim, axis).astype(np.int16)
    if shifted.min(initial=0) >= -128 and shifted.max(initial=0) <= 127:
        return shifted.astype(np.int8), None
    return values, left


_CODES = {8: (ir.DataType.UINT8, ir.DataType.INT8), 16: (ir.DataType.UINT16, ir.DataType.INT16)}


def quantization(node: ir.Node, bits: int = 8) -> Quant | str:
    """Parameters of a QuantizeLinear or DequantizeLinear on a whole tensor, or the reason why there are none."""
    scale = constant(node.inputs[1])
    zero_point = constant(node.inputs[2]) if len(node.inputs) > 2 else None
    if scale is None or (len(node.inputs) > 2 and node.inputs[2] is not None and zero_point is None):
        return "its scale or zero point is not constant"
    value = coded(node)
    dtype = value.dtype if value is not None and value.dtype is not None else None
    if dtype is None and zero_point is not None:
        dtype = ir.DataType.from_numpy(zero_point.dtype)
    if dtype not in _CODES[bits]:
        return f"its type is {dtype.name if dtype is not None else 'unknown'}, not UINT{bits} or INT{bits}"
    if scale.size != 1 or scale.dtype != np.float32 or not np.isfinite(scale).all() or not (scale > 0).all():
        return "its scale is not one positive float32"
    if zero_point is not None and ir.DataType.from_numpy(zero_point.dtype) != dtype:
        return f"its zero point is {zero_point.dtype}, and its type {dtype.name}"
    zero = 0 if zero_point is None else int(zero_point.reshape(-1)[0])
    return Quant(float(scale.reshape(-1)[0]), zero, dtype == _CODES[bits][1], bits)


def shape_of(value: ir.Value | None) -> tuple[int, ...] | None:
    """A static shape, else None."""
    if value is None or value.shape is None:
        return None
    sides = tuple(side for side in value.shape if isinstance(side, int))
    return sides if len(sides) == len(value.shape) else None


def known_shape(value: ir.Value | None) -> tuple[int, ...]:
    """The shape of a value that has passed placement."""
    shape = shape_of(value)
    assert shape is not None
    return shape


def label(node: ir.Node) -> str:
    """How errors and tables call a node."""
    return node.name or str(node.outputs[0].name)


def qualified(node: ir.Node) -> str:
    """An operator with its domain, where that is not ONNX's own."""
    return node.op_type if node.domain == "" else f"{node.domain}.{node.op_type}"


def consumers(value: ir.Value) -> list[ir.Node]:
    """The nodes that read a value, once a use."""
    return [use.node for use in value.uses()]


def sole_consumer(value: ir.Value) -> ir.Node | None:
    """The one reader of a value that is no graph output, else None."""
    readers = consumers(value)
    return readers[0] if len(readers) == 1 and not value.is_graph_output() else None


def operands(node: ir.Node) -> Iterator[ir.Value]:
    """Inputs that are given and computed at run time."""
    yield from (value for value in node.inputs if value is not None and not is_constant(value))


def captured(node: ir.Node) -> list[ir.Value]:
    """The same, and what the bodies of If, Loop and Scan read from outside."""
    found = dict.fromkeys(operands(node))
    for inner in (inner for body in bodies(node) for inner in ir.traversal.RecursiveGraphIterator(body)):
        for value in inner.inputs:
            if value is not None and value.graph is node.graph and not is_constant(value):
                found[value] = None
    return list(found)


def leading_to(value: ir.Value, follow: Callable[[ir.Value], bool]) -> list[ir.Node]:
    """The nodes that compute a value, each after those it reads, through the operands that are to be followed."""
    found: dict[ir.Node, None] = {}
    seen: set[ir.Node] = set()
    waiting = [value.producer()]
    while waiting:
        node = waiting[-1]
        if node is None or node in seen:  # a second time: all that it reads is there
            waiting.pop()
            if node is not None:
                found.setdefault(node)
            continue
        seen.add(node)
        waiting += [operand.producer() for operand in node.inputs if operand is not None and follow(operand)]
    return list(found)


def bodies(node: ir.Node) -> Iterator[ir.Graph]:
    """The graphs inside an If, Loop or Scan."""
    for attribute in node.attributes.values():
        if attribute.type == ir.AttributeType.GRAPH:
            yield attribute.as_graph()
        elif attribute.type == ir.AttributeType.GRAPHS:
            yield from attribute.as_graphs()


def attribute(node: ir.Node, name: str, default: float) -> float:
    """A float or int attribute of ``node``."""
    found = node.attributes.get(name)
    return default if found is None else float(found.value)


def int_attribute(node: ir.Node, name: str, default: int) -> int:
    attribute = node.attributes.get(name)
    return default if attribute is None else int(attribute.as_int())


def float_attribute(node: ir.Node, name: str, default: float) -> float:
    attribute = node.attributes.get(name)
    return default if attribute is None else float(attribute.as_float())


def ints_attribute(node: ir.Node, name: str, default: list[int]) -> list[int]:
    attribute = node.attributes.get(name)
    return default if attribute is None else [int(item) for item in attribute.as_ints()]


def text_attribute(node: ir.Node, name: str, default: str) -> str:
    attribute = node.attributes.get(name)
    return default if attribute is None else str(attribute.as_string())


def _along(array: Array, rank: int, axis: int) -> Array:
    """Shape a vector so that it broadcasts along ``axis``; scalars broadcast anyway."""
    if array.size == 1:
        return array.reshape(())
    shape = [1] * rank
    shape[axis] = array.size
    return array.reshape(shape)
