"""Weights in the order in which kernels read them, made once and used often."""

from __future__ import annotations

import copyreg
from typing import Any, Literal, TypeVar

import numpy as np
import numpy.typing as npt

from edgekern import _core
from edgekern._arguments import integer
from edgekern._arrays import as_array, lent
from edgekern._core import PackedWeights
from edgekern.errors import ArgumentTypeError, ArgumentValueError

__all__ = ["PackedWeights", "interleave_gate_up", "pack_weights"]

FloatArray = npt.NDArray[np.float32]
Int8Array = npt.NDArray[np.int8]
_T = TypeVar("_T", bound=np.generic)


def pack_weights(
    w: Int8Array,
    *,
    scale: float | npt.NDArray[np.floating] | None = None,
    zero_point: npt.NDArray[np.number] | None = None,
    bits: Literal[8, 4, 2] = 8,
    group_size: Literal[32, 64, 128] | None = None,
) -> PackedWeights:
    """Pack weights once for many multiplications.

    Parameters
    ----------
    w : (K, N) int8 array
        Any strides: ``w.T`` of an (N, K) matrix is taken without a copy. With ``bits=8`` the full range is allowed,
        -128 included; with ``bits=4`` the values lie in [-8, 7] (from unsigned ones subtract 8, and from
        ``zero_point`` too); with ``bits=2`` they are -1, 0 and 1.
    scale : float or (N,) float32 array, optional; (ceil(K / group_size), N) array with 4 and 2 bits
        Real value of one step: for the whole matrix or per column, and :func:`linear` needs it; with 4 and 2 bits for
        every group of ``group_size`` rows and every column.
    zero_point : array like ``scale``, optional
        With ``bits=4``: real = (w - zero_point) * scale. Fractions are allowed. Without it the map is symmetric.
    bits : {8, 4, 2}
        2 stands for ternary weights: 1.875 or 2.0 bits each, their scales among them.
    group_size : {32, 64, 128}; {64, 128} with ``bits=2``
        With 4 and 2 bits: how many rows of ``w`` share a scale; the last group may be short.

    Returns
    -------
    PackedWeights
        Immutable; ``shape`` is (K, N), ``nbytes`` the packed size, ``bits`` and ``group_size`` as given. With 8 bits N
        is padded to 16 and K to 4; with 4 bits to 64 and 8; with 2 bits to 64 and whole groups. A copy is the object
        itself; a pickle holds the packed bytes (out of band with protocol 5) and is read by versions of the same
        layout.

    Raises
    ------
    ArgumentTypeError, ArgumentValueError
        When ``w`` is not a 2-D int8 array or has values that these bits cannot hold, or when scales or zero points have
        the wrong shape or are not finite.

    Notes
    -----
    4-bit weights keep scales and zero points in float16 (11 significant bits; scales of any float32 size, see
    docs/int4.md), so ``group_size=32`` takes 4.5 bits a weight. 2-bit weights keep their scales likewise: 1.875 bits a
    weight in groups of 64, 2.0 in groups of 128 (docs/int2.md).
    """
    array = as_array("pack_weights", "w", w)
    scale, zero_point = (
        lent("pack_weights", name, given) for name, given in (("scale", scale), ("zero_point", zero_point))
    )
    if integer("pack_weights", "bits", bits) in (4, 2):
        if scale is None or group_size is None:
            missing = "scale" if scale is None else "group_size"
            raise ArgumentValueError(f"pack_weights: bits={bits} needs {missing}")
        sizes = (32, 64, 128) if bits == 4 else (64, 128)
        if isinstance(group_size, bool) or not isinstance(group_size, int) or group_size not in sizes:
            rule = "32, 64 or 128" if bits == 4 else "64 or 128 with bits=2"
            raise ArgumentValueError(f"pack_weights: group_size must be {rule}, got {group_size!r}")
        if bits == 4:
            return _core.pack_weights_int4(array, scale, zero_point, group_size)
        if zero_point is not None:
            raise ArgumentValueError("pack_weights: zero_point is for bits=4; 2-bit weights are symmetric")
        return _core.pack_weights_int2(array, scale, group_size)
    if bits != 8:
        raise ArgumentValueError(f"pack_weights: bits must be 8, 4 or 2, got {bits!r}")
    if zero_point is not None or group_size is not None:
        extra = "group_size is for bits=4 and 2" if zero_point is None else "zero_point is for bits=4"
        raise ArgumentValueError(f"pack_weights: {extra}; 8-bit weights are symmetric, per column")
    return _core.pack_weights(array, scale)


def _reduce_packed(packed: PackedWeights) -> tuple[Any, ...]:
    return _restore_packed, _core.packed_state(packed)


# Pickles name this function, so it stays here: a builtin of the core has no name of its own in them.
def _restore_packed(*state: Any) -> PackedWeights:
    return _core.restore_packed(*state)


copyreg.pickle(PackedWeights, _reduce_packed)


def interleave_gate_up(gate: npt.NDArray[_T], up: npt.NDArray[_T]) -> npt.NDArray[_T]:
    """Put the columns of ``gate`` and ``up`` side by side in pairs, as :func:`linear` takes them for ``"swiglu"``.

    Parameters
    ----------
    gate, up : arrays of one shape and dtype
        Weights (K, N), or their scales or biases (N,).

    Returns
    -------
    (K, 2 N) or (2 N,) array
        ``gate[..., j]`` in column ``2 j``, ``up[..., j]`` in column ``2 j + 1``.

    Raises
    ------
    ArgumentTypeError, ArgumentValueError
        When the two are not arrays of one dtype and shape.
    """
    a, b = as_array("interleave_gate_up", "gate", gate), as_array("interleave_gate_up", "up", up)
    if a.dtype != b.dtype:
        raise ArgumentTypeError(f"interleave_gate_up: up must be {a.dtype} as gate is, got {b.dtype}")
    if a.shape != b.shape or a.ndim == 0:
        raise ArgumentValueError(
            f"interleave_gate_up: gate and up must have one shape of at least one axis, got {a.shape} and {b.shape}"
        )
    return np.stack([a, b], axis=-1).reshape(*a.shape[:-1], 2 * a.shape[-1])
