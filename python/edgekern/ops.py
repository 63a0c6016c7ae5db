"""Kernels for NumPy users: arrays in, arrays out.

``out=`` is everywhere, nothing is copied silently, and a wrong dtype is an error. Integer results are exact and every
result has the same bits on every CPU and for any number of threads.
"""

from __future__ import annotations

import math
from typing import Literal, TypeVar

import numpy as np
import numpy.typing as npt

from edgekern import _core
from edgekern._arguments import integer, integers, number, numpy_dtype, string, thread_count
from edgekern._arrays import as_array, lent, written_array
from edgekern._core import PackedWeights
from edgekern._core import public_matmul_integer as matmul_integer
from edgekern.errors import ArgumentTypeError, ArgumentValueError

__all__ = [
    "dequantize_linear",
    "dynamic_quantize",
    "linear",
    "matmul_integer",
    "quantize_linear",
]

Int8Array = npt.NDArray[np.int8]
ByteArray = npt.NDArray[np.uint8] | npt.NDArray[np.int8]
Int32Array = npt.NDArray[np.int32]
FloatArray = npt.NDArray[np.float32]
Activation = Literal["relu", "relu6", "gelu", "gelu_tanh", "silu", "swiglu"] | tuple[float, float] | None
_T = TypeVar("_T", bound=np.generic)


_CLAMPS: dict[str | None, tuple[float, float]] = {
    None: (-math.inf, math.inf),
    "relu": (0.0, math.inf),
    "relu6": (0.0, 6.0),
}
_CURVES = ("gelu", "gelu_tanh", "silu", "swiglu")


def _activation(activation: Activation) -> tuple[str, float, float]:
    """Name and bounds of an activation; a clamp has the name ``"clamp"``."""
    if activation is None or isinstance(activation, str):
        if activation in _CLAMPS:
            return "clamp", *_CLAMPS[activation]
        if activation in _CURVES:
            return activation, 0.0, 0.0
    elif isinstance(activation, tuple) and len(activation) == 2:
        low, high = (number("linear", "a bound of activation", bound) for bound in activation)
        if low <= high:
            return "clamp", low, high
    raise ArgumentValueError(
        "linear: activation must be None, 'relu', 'relu6', 'gelu', 'gelu_tanh', 'silu', 'swiglu' or a pair (lo, hi) "
        f"with lo <= hi, got {activation!r}"
    )


def _result_dtype(out_dtype: npt.DTypeLike, y_scale: float | None) -> np.dtype[np.generic]:
    allowed = ("uint8", "int8") if y_scale is not None else ("float32", "float16", "bfloat16")
    wanted = numpy_dtype("linear", "out_dtype", out_dtype, "; bfloat16 is ml_dtypes.bfloat16")
    if wanted.isnative and wanted.name in allowed:
        return wanted
    remedy = "; leave y_scale out for a float result" if y_scale is not None else "; 8-bit results need y_scale"
    raise ArgumentTypeError(
        f"linear: out_dtype must be {', '.join(allowed[:-1])} or {allowed[-1]}, got {wanted}{remedy}"
    )


@_core.fast_linear
def linear(
    x: FloatArray | ByteArray,
    w: PackedWeights,
    *,
    bias: FloatArray | None = None,
    activation: Activation = None,
    residual: FloatArray | None = None,
    x_scale: float | None = None,
    x_zero_point: int = 0,
    y_scale: float | None = None,
    y_zero_point: int = 0,
    x_quantization: Literal["row", "group"] | None = None,
    out_dtype: npt.DTypeLike | None = None,
    out: npt.NDArray[np.generic] | None = None,
    num_threads: int | None = None,
) -> npt.NDArray[np.generic]:
    """Multiply by weights of 8, 4 or 2 bits and do the rest of the layer: ``activation(x @ w + bias) + residual``.

    Parameters
    ----------
    x : (M, K) float32, uint8 or int8 array
        float32 is quantized row by row, symmetric, scale ``max|x| / 127``. 8-bit needs ``x_scale``.
    w : PackedWeights
        Packed with ``scale``. With 4 or 2 bits ``x`` and the result are float32, without ``x_scale`` and ``y_scale``.
    bias : (N,) float32 array, optional
    activation : {None, "relu", "relu6", "gelu", "gelu_tanh", "silu", "swiglu"} or (lo, hi)
        A pair is a clamp. GELU has the names of torch: ``"gelu"`` by the error function, ``"gelu_tanh"`` by tanh.
        ``"swiglu"`` takes the columns of ``w`` in pairs (see :func:`interleave_gate_up`), and gives
        ``silu(even columns) * odd columns``: the result has N / 2 columns.
    residual : (M, N) float32 array, optional
        Added after the activation; of the result's shape. ``out`` may be the residual itself.
    x_scale, x_zero_point : float, int
        The map of an 8-bit ``x``: real = (x - x_zero_point) * x_scale.
    y_scale, y_zero_point : float, int
        With 8-bit ``x``: quantize the result, to uint8 or int8.
    x_quantization : {"row", "group"}, optional
        What one scale of a float32 ``x`` spans: the row, or with weights of 4 and 2 bits also each group of 128 of its
        values, which is more accurate and their default.
    out_dtype : dtype, optional
        float32 (the default), float16 or ``ml_dtypes.bfloat16``, rounded to nearest even; with ``y_scale`` uint8 (the
        default) or int8.
    out : (M, N) array of that dtype, optional
        Overwritten and returned.
    num_threads : int, optional

    Returns
    -------
    (M, N) array, or (M, N / 2) for ``"swiglu"``

    Raises
    ------
    ArgumentTypeError, ArgumentValueError
        When operands do not fit, or K is so large that the int32 accumulator could wrap.

    Notes
    -----
    Bit for bit: ``y = float32(acc) * (row_scale * w_scale) + bias``, each product and sum rounded to float32, then the
    activation, then the residual; ``out_dtype`` and ``y_scale`` round that once more, as ``astype`` and
    :func:`quantize_linear` do. The one exception: an 8-bit result of a clamp without a residual never becomes a float
    layer; it is ``clip(rint(float32(acc + bias_i32) * m) + y_zero_point)`` with
    ``m = float32(x_scale * w_scale / y_scale)`` computed in double (Jacob et al., 2018, with a float multiplier).

    A NaN stays one, up to its payload, and becomes the smallest value where it is rounded to 8 bits.

    Weights of 4 and 2 bits: two sums, both in ascending order, stand for ``float32(acc) * (row_scale * w_scale)``. Over
    every 128 values of k, ``x_scale`` times the sum over their weights' groups of ``float32(acc) * w_scale``; with zero
    points ``float32(acc) - zero_point * float32(sum(q))`` for ``float32(acc)``.
    """
    if not isinstance(w, PackedWeights):
        raise ArgumentTypeError(f"linear: w must be the result of pack_weights, got {type(w).__name__}")
    if x_quantization is not None and string("linear", "x_quantization", x_quantization) not in ("row", "group"):
        raise ArgumentValueError(f"linear: x_quantization must be 'row' or 'group', got {x_quantization!r}")
    if x_quantization == "group" and w.bits == 8:
        raise ArgumentValueError(
            "linear: x_quantization='group' needs weights of 4 or 2 bits; 8-bit ones have no groups"
        )
    curve, lo, hi = _activation(activation)
    half: np.dtype[np.generic] | None = None  # float16 or bfloat16: the core writes their bits into a uint16 array
    kind = "float32" if y_scale is None else "uint8"
    if out_dtype is not None:
        dtype = _result_dtype(out_dtype, y_scale)
        kind, half = dtype.name, dtype if dtype.itemsize == 2 else None
    if not (bias is None or type(bias) is np.ndarray):
        bias = lent("linear", "bias", bias)
    if not (residual is None or type(residual) is np.ndarray):
        residual = lent("linear", "residual", residual)
    target = None if out is None else written_array("linear", "out", out)
    if half is not None and target is not None:
        if target.dtype != half:
            raise ArgumentTypeError(f"linear: out must be {half}, got {target.dtype}")
        target = target.view(np.uint16)
    result: npt.NDArray[np.generic] = _core.linear(
        as_array("linear", "x", x),
        w,
        bias,
        curve,
        lo,
        hi,
        residual,
        None if x_scale is None else number("linear", "x_scale", x_scale),
        integer("linear", "x_zero_point", x_zero_point),
        None if y_scale is None else number("linear", "y_scale", y_scale),
        integer("linear", "y_zero_point", y_zero_point),
        kind,
        target,
        "",
        thread_count("linear", num_threads),
        x_quantization == "row",
    )
    if out is not None:
        return out
    return result if half is None else result.view(half)


def _scales(function: str, scale: object) -> FloatArray:
    try:
        values = np.ascontiguousarray(scale, dtype=np.float32).reshape(-1)
    except OverflowError as error:
        raise ArgumentValueError(f"{function}: scale is larger than any float") from error
    except (TypeError, ValueError) as error:
        raise ArgumentTypeError(f"{function}: scale must be a number or an array of numbers") from error
    return values


def _zero_points(function: str, zero_point: object, count: int) -> Int32Array:
    values = integers(function, "zero_point", zero_point)
    for bound in (values.min(initial=0), values.max(initial=0)):
        if not -(2**31) <= int(bound) < 2**31:
            raise ArgumentValueError(f"{function}: zero_point must lie in the 8 bits of dtype, got {int(bound)}")
    return np.ascontiguousarray(
        np.broadcast_to(values.reshape(-1), (count,)) if values.size == 1 else values.reshape(-1)
    ).astype(np.int32)


def _axis_of(function: str, scale: object, axis: int | None) -> int | None:
    return None if axis is None or np.ndim(scale) == 0 else integer(function, "axis", axis)  # type: ignore[arg-type]


def quantize_linear(
    x: FloatArray,
    scale: float | FloatArray,
    zero_point: int | ByteArray | np.integer = 0,
    *,
    axis: int | None = None,
    dtype: npt.DTypeLike | None = None,
    out: ByteArray | None = None,
    num_threads: int | None = None,
) -> ByteArray:
    """Quantize to 8 bits (ONNX ``QuantizeLinear``): ``clip(rint(x / scale) + zero_point)``.

    Parameters
    ----------
    x : float32 array, C-contiguous
    scale : float, or (C,) float32 array with ``axis``
    zero_point : int, or an integer array like ``scale``
    axis : int, optional
        The axis that ``scale`` runs along; None is per tensor.
    dtype : uint8 or int8, optional
        Default: the dtype of ``zero_point`` where that is uint8 or int8, else uint8.
    out : array of that dtype and ``x``'s shape, optional
    num_threads : int, optional

    Returns
    -------
    uint8 or int8 array of ``x``'s shape

    Raises
    ------
    ArgumentTypeError, ArgumentValueError

    Notes
    -----
    The division is a division (a product with the reciprocal rounds differently), ties go to even, and the zero point
    is added after rounding, as ONNX defines it. NaN becomes the smallest value.
    """
    zero_point = lent("quantize_linear", "zero_point", zero_point)
    if dtype is None:
        given = getattr(zero_point, "dtype", None)
        dtype = given if given in (np.dtype(np.int8), np.dtype(np.uint8)) else np.uint8
    wanted = numpy_dtype("quantize_linear", "dtype", dtype)
    if wanted not in (np.uint8, np.int8):
        raise ArgumentTypeError(f"quantize_linear: dtype must be uint8 or int8, got {wanted}")
    scale = lent("quantize_linear", "scale", scale)
    scales = _scales("quantize_linear", scale)
    result = _core.quantize_linear(
        as_array("quantize_linear", "x", x),
        scales,
        _zero_points("quantize_linear", zero_point, scales.size),
        _axis_of("quantize_linear", scale, axis),
        wanted == np.int8,
        None if out is None else written_array("quantize_linear", "out", out),
        "",
        thread_count("quantize_linear", num_threads),
    )
    return result if out is None else out


def dequantize_linear(
    x: ByteArray,
    scale: float | FloatArray,
    zero_point: int | npt.NDArray[np.integer] | np.integer = 0,
    *,
    axis: int | None = None,
    out: FloatArray | None = None,
    num_threads: int | None = None,
) -> FloatArray:
    """Give back real values (ONNX ``DequantizeLinear``): ``float32(x - zero_point) * scale``.

    Parameters
    ----------
    x : uint8 or int8 array, C-contiguous
    scale : float, or (C,) float32 array with ``axis``
    zero_point : int, or an integer array like ``scale``
    axis : int, optional
    out : float32 array of ``x``'s shape, optional
    num_threads : int, optional

    Returns
    -------
    float32 array of ``x``'s shape

    Raises
    ------
    ArgumentTypeError, ArgumentValueError
    """
    scale = lent("dequantize_linear", "scale", scale)
    scales = _scales("dequantize_linear", scale)
    result = _core.dequantize_linear(
        as_array("dequantize_linear", "x", x),
        scales,
        _zero_points("dequantize_linear", zero_point, scales.size),
        _axis_of("dequantize_linear", scale, axis),
        None if out is None else written_array("dequantize_linear", "out", out),
        "",
        thread_count("dequantize_linear", num_threads),
    )
    return result if out is None else out


def dynamic_quantize(x: FloatArray, *, num_threads: int | None = None) -> tuple[Int8Array, FloatArray]:
    """Quantize every row symmetrically to int8: ``scale = max|x| / 127``, ``q = rint(x * (127 / max|x|))``.

    Parameters
    ----------
    x : (M, K) float32 array, C-contiguous
    num_threads : int, optional

    Returns
    -------
    q : (M, K) int8 array in [-127, 127], and -128 for NaN. Beside an infinity all that is finite is 0, infinity is 127
        and minus infinity -128.
    scale : (M,) float32 array; 1.0 for a row of zeros, or of nothing above 2^-110; infinite for a row with an infinity

    Raises
    ------
    ArgumentTypeError, ArgumentValueError
    """
    return _core.dynamic_quantize(
        as_array("dynamic_quantize", "x", x), "", thread_count("dynamic_quantize", num_threads)
    )
