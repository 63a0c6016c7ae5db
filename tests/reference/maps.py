"""Chains of element-wise operations, each value a whole array."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt

from edgekern._core import MapOp

from reference.fma import fma
from reference.functions import FUNCTIONS, power
from reference.quantize import dequantize_linear, quantize_linear

Array = npt.NDArray[Any]
f32 = np.float32


def truth(x: Array) -> Array:
    return x.astype(f32)


OPERATIONS: dict[str, Callable[..., Array]] = {
    **FUNCTIONS,
    "COPY": lambda a: a,
    "NEG": lambda a: -a,
    "ABS": np.abs,
    "SIGN": lambda a: np.where(a < 0, f32(-1), np.where(a > 0, f32(1), a)),
    "SQRT": np.sqrt,
    "RECIPROCAL": lambda a: f32(1) / a,
    "FLOOR": np.floor,
    "CEIL": np.ceil,
    "ROUND": np.rint,
    "NOT": lambda a: truth(a == 0),
    "IS_NAN": lambda a: truth(np.isnan(a)),
    "IS_INF": lambda a: truth(np.isinf(a)),
    "ADD": lambda a, b: a + b,
    "SUB": lambda a, b: a - b,
    "MUL": lambda a, b: a * b,
    "DIV": lambda a, b: a / b,
    "MIN": lambda a, b: np.where(np.isnan(a), a, np.where(a < b, a, b)),
    "MAX": lambda a, b: np.where(np.isnan(a), a, np.where(a > b, a, b)),
    "POW": power,
    "MOD": np.mod,
    "FMOD": np.fmod,
    "LESS": lambda a, b: truth(a < b),
    "LESS_EQUAL": lambda a, b: truth(a <= b),
    "GREATER": lambda a, b: truth(a > b),
    "GREATER_EQUAL": lambda a, b: truth(a >= b),
    "EQUAL": lambda a, b: truth(a == b),
    "AND": lambda a, b: truth((a != 0) & (b != 0)),
    "OR": lambda a, b: truth((a != 0) | (b != 0)),
    "XOR": lambda a, b: truth((a != 0) != (b != 0)),
    "PRELU": lambda a, b: np.where(a < 0, a * b, a),
    "WHERE": lambda a, b, c: np.where(a != 0, b, c),
    "CLIP": lambda a, b, c: np.where(np.isnan(a), a, smaller(c, np.where(b > a, b, a))),
    "MUL_ADD": fma,
    "ROUND_F16": lambda a: a.astype(np.float16).astype(f32),
    "ROUND_BF16": lambda a: (bfloat16(a).astype(np.uint32) << 16).view(f32),
}


def smaller(a: Array, b: Array) -> Array:
    return np.where(a < b, a, b)


def bfloat16(x: Array) -> Array:
    """The bits of the nearest bfloat16, ties to even: the upper half of a float32."""
    bits = x.view(np.uint32).astype(np.uint64)
    rounded = (bits + 0x7FFF + (bits >> 16 & 1)) >> 16
    return np.where(np.isnan(x), bits >> 16 | 0x40, rounded).astype(np.uint16)


def quotient(a: Array, b: Array) -> Array:
    """Cut off toward zero; 0 where b is."""
    safe = np.where((b == 0) | (b == -1), 1, b)
    size = np.abs(a.astype(object)) // np.abs(safe.astype(object))
    wide = np.where((a < 0) != (safe < 0), -size, size).astype(np.int64)
    return np.where(b == 0, 0, np.where(b == -1, -a, wide))


def rest(a: Array, b: Array) -> Array:
    return np.where(b == 0, 0, a - quotient(a, b) * b)


def modulus(a: Array, b: Array) -> Array:
    left = rest(a, b)
    return np.where((left != 0) & ((left < 0) != (b < 0)), left + b, left)


def whole_power(a: Array, b: Array) -> Array:
    def one(base: int, n: int) -> int:
        if n < 0:
            return base ** (n % 2) if abs(base) == 1 else 0
        return pow(base, n, 2**64)

    y = [one(base, n) % 2**64 for base, n in zip(a.ravel().tolist(), b.ravel().tolist(), strict=True)]
    return np.array(y, np.uint64).view(np.int64).reshape(a.shape)


WHOLE_OPERATIONS: dict[str, Callable[..., Array]] = {
    **{name: OPERATIONS[name] for name in ("COPY", "NEG", "ABS", "ADD", "SUB", "MUL", "PRELU", "WHERE")},
    "SIGN": np.sign,
    "NOT": lambda a: a == 0,
    "DIV": quotient,
    "MIN": np.minimum,
    "MAX": np.maximum,
    "POW": whole_power,
    "MOD": modulus,
    "FMOD": rest,
    "LESS": lambda a, b: a < b,
    "LESS_EQUAL": lambda a, b: a <= b,
    "GREATER": lambda a, b: a > b,
    "GREATER_EQUAL": lambda a, b: a >= b,
    "EQUAL": lambda a, b: a == b,
    "AND": lambda a, b: (a != 0) & (b != 0),
    "OR": lambda a, b: (a != 0) | (b != 0),
    "XOR": lambda a, b: (a != 0) != (b != 0),
    "CLIP": lambda a, b, c: np.minimum(np.maximum(a, b), c),
    "MUL_ADD": lambda a, b, c: a * b + c,
}


def operands_of(op: MapOp) -> int:
    if op >= MapOp.ROUND_F16:
        return 1
    return 3 if op >= MapOp.WHERE else 2 if op >= MapOp.ADD else 1


def evaluate(step: Any, operands: list[Array], table: dict[str, Callable[..., Array]]) -> Array:
    """The last result of a chain. Operands are flat; code begins with the steps by which they are walked."""
    arguments = step.arguments
    shape, code = arguments["shape"], np.asarray(arguments["code"])
    count = arguments["operands"]
    index = np.indices(shape)
    walks = code[: 8 * count].reshape(count, 8)
    values = [x[np.tensordot(walk, index, 1)] for walk, x in zip(walks, operands, strict=True)]
    values += [np.full(shape, constant, f32) for constant in arguments.get("constants", [])]
    with np.errstate(all="ignore"):
        for op, *numbers in code[8 * count :].reshape(-1, 4).tolist():
            function = table[MapOp(op).name]
            result = function(*(values[number] for number in numbers[: operands_of(MapOp(op))]))
            values.append(np.asarray(result).astype(values[0].dtype))
    return values[-1]


def float_map(machine: Any, step: Any, x: list[Array], y: Any) -> Array:
    operands = []
    for number, array in zip(step.inputs, x, strict=True):
        t = machine.tensors[number]
        is_codes = t.dtype.name in ("U8", "S8")
        real = dequantize_linear(array, t.scale, t.zero_point) if is_codes else array.astype(f32)
        operands.append(real.reshape(-1))
    operands += [machine.blob(step, at, "<f4") for at in range(len(step.blobs))]
    result = evaluate(step, operands, OPERATIONS)
    if y.dtype.name in ("U8", "S8"):
        return quantize_linear(result, y.scale, y.zero_point, np.uint8 if y.dtype.name == "U8" else np.int8)
    if y.dtype.name in ("I32", "I64"):
        return cut_off(result, np.int32 if y.dtype.name == "I32" else np.int64)
    if y.dtype.name == "F16":
        with np.errstate(over="ignore"):
            return result.astype(np.float16)
    if y.dtype.name == "BF16":
        return bfloat16(result).view(ml_dtypes.bfloat16)
    return result != 0 if y.dtype.name == "BOOL" else result


def cut_off(x: Array, dtype: Any) -> Array:
    """Toward zero, held in the range; 0 for a NaN."""
    limits = np.iinfo(dtype)
    end = f32(2.0 ** (limits.bits - 1))
    inside = np.isfinite(x) & (x < end) & (x >= -end)
    whole = np.where(inside, x, 0).astype(dtype)
    return np.where(inside | np.isnan(x), whole, np.where(x > 0, limits.max, limits.min))


def whole_map(machine: Any, step: Any, x: list[Array], y: Any) -> Array:
    operands = [array.astype(np.int64).reshape(-1) for array in x]
    operands += [machine.blob(step, at, "<i8") for at in range(len(step.blobs))]
    result = evaluate(step, operands, WHOLE_OPERATIONS)
    return result != 0 if y.dtype.name == "BOOL" else result


STEPS = {"MAP": float_map, "MAP_I64": whole_map}
