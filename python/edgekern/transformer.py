"""A transformer's operators on plain arrays, as ONNX defines them: for models that keep no ring cache."""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable, Sequence
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from edgekern import _core
from edgekern._arguments import flag, integers, isa_name, number, thread_count
from edgekern._arrays import as_array, plain
from edgekern.errors import ArgumentTypeError, ArgumentValueError

__all__ = ["attention", "rms_norm", "rotary_embedding"]

FloatArray = npt.NDArray[np.float32]
_FAR = 2**61  # beyond every key, and sums of two fit into 64 bits


def _floats(function: str, argument: str, value: object, ranks: tuple[int, ...]) -> FloatArray:
    given = as_array(function, argument, value)
    if given.dtype != np.float32:
        raise ArgumentTypeError(f"{function}: {argument} must be float32, got {given.dtype}")
    if given.ndim not in ranks:
        wanted = " or ".join(map(str, ranks))
        raise ArgumentValueError(f"{function}: {argument} must have {wanted} axes, got shape {given.shape}")
    return plain(function, argument, given)


def _per_batch(argument: str, value: int | npt.ArrayLike, batch: int) -> list[int]:
    given = integers("attention", argument, value)
    if given.size and not -_FAR < int(given.min()) <= int(given.max()) < _FAR:
        raise ArgumentValueError(f"attention: {argument} must lie within 2^61, got {given.min()} to {given.max()}")
    if given.shape not in ((), (batch,)):
        raise ArgumentValueError(
            f"attention: {argument} must be one number or one for each batch ({batch}), got shape {given.shape}"
        )
    return [int(n) for n in np.broadcast_to(given, (batch,))]


def _mask(mask: object, shape: tuple[int, int, int, int]) -> FloatArray:
    """The mask as floats to add, with four axes; the first three may be 1."""
    given = as_array("attention", "mask", mask)
    if given.dtype == np.bool_:
        given = np.where(given, np.float32(0), np.float32(-math.inf))
    if given.dtype != np.float32:
        raise ArgumentTypeError(f"attention: mask must be bool or float32, got {given.dtype}")
    four = given.reshape((1,) * (4 - given.ndim) + given.shape) if given.ndim <= 4 else given
    if four.ndim != 4 or any(n not in (1, whole) for n, whole in zip(four.shape, shape, strict=True)):
        raise ArgumentValueError(f"attention: mask must broadcast to {shape}, got shape {given.shape}")
    return np.require(np.broadcast_to(four, (*four.shape[:3], shape[3])), np.float32, ("C", "A"))


def _window(window: object) -> tuple[int, int]:
    """Left and right, -1 for all."""
    try:
        left, right = (-1 if side is None else min(operator.index(side), _FAR) for side in cast(Iterable[Any], window))
    except (TypeError, ValueError) as error:
        raise ArgumentTypeError(
            f"attention: window must be a pair (left, right) of integers or None, got {window!r}"
        ) from error
    if any(side is not None and side < 0 for side in cast(Iterable[Any], window)):
        raise ArgumentValueError(f"attention: window must be None or not negative, got {window}")
    return left, right


def attention(
    q: FloatArray,
    k: FloatArray,
    v: FloatArray,
    mask: npt.NDArray[np.bool_] | FloatArray | None = None,
    *,
    causal: bool = False,
    window: tuple[int | None, int | None] = (None, None),
    position: int | npt.ArrayLike = 0,
    kv_lengths: int | npt.ArrayLike | None = None,
    scale: float | None = None,
    softcap: float = 0.0,
    num_threads: int | None = None,
    isa: str | None = None,
) -> FloatArray:
    """softmax(scale * q k^T + mask) v, with the semantics of ONNX's Attention (opsets 23 to 25).

    Parameters
    ----------
    q : (batch, heads, queries, head_dim) float32
    k : (batch, kv_heads, keys, head_dim) float32
        ``heads`` is a multiple of ``kv_heads``: each KV head serves as many query heads, side by side.
    v : (batch, kv_heads, keys, v_dim) float32
    mask : bool or float32, optional
        Broadcasts to (batch, heads, queries, keys). True: the query sees the key. Floats are added to the scores; a
        key under -infinity is not seen.
    causal : a query sees no key behind its own position
    window : (left, right)
        Keys before and behind its own position that a query sees; None: all of them.
    position : int or (batch,) ints
        Where the first query stands among the keys: with a cache, the tokens that came before. May be negative.
    kv_lengths : int or (batch,) ints, optional
        Keys that are there; those behind them are padding.
    scale : 1 / sqrt(head_dim) by default
    softcap : c > 0 makes a score c * tanh(score / c), before the mask
    num_threads : default: the package's setting

    Returns
    -------
    (batch, heads, queries, v_dim) float32
        Zero for a query that sees no key. The same bits on every ISA and for any number of threads.

    Raises
    ------
    ArgumentTypeError, ArgumentValueError
        A dtype or shape is wrong, or a number out of range; the message names it.

    Notes
    -----
    Where nobody looks, K and V may hold anything. One pass over the keys in segments of 256 (online softmax: Milakov
    and Gimelshein, 2018), as in :class:`edgekern.RingKVCache` with ``kv="float32"``.
    """
    q, k, v = (_floats("attention", name, x, (4,)) for name, x in (("q", q), ("k", k), ("v", v)))
    batch, heads, queries, head_dim = q.shape
    left, right = _window(window)
    if flag("attention", "causal", causal):
        right = 0
    factor = 1.0 / math.sqrt(max(1, head_dim)) if scale is None else number("attention", "scale", scale)
    softcap = number("attention", "softcap", softcap)
    if not math.isfinite(factor) or not math.isfinite(softcap) or softcap < 0:
        raise ArgumentValueError(
            f"attention: scale must be finite and softcap finite and not negative, got {scale} and {softcap}"
        )
    return _core.attention(
        q,
        k,
        v,
        None if mask is None else _mask(mask, (batch, heads, queries, k.shape[2])),
        _per_batch("position", position, batch),
        _per_batch("kv_lengths", k.shape[2] if kv_lengths is None else kv_lengths, batch),
        left,
        right,
        factor,
        softcap,
        thread_count("attention", num_threads),
        isa_name("attention", isa),
    )


def rotary_embedding(
    x: FloatArray,
    cosines: FloatArray,
    sines: FloatArray,
    positions: npt.NDArray[np.integer] | None = None,
    *,
    interleaved: bool = False,
    num_threads: int | None = None,
    isa: str | None = None,
) -> FloatArray:
    """Turn pairs of values by their position's angles, as ONNX's RotaryEmbedding (opset 23) does.

    Parameters
    ----------
    x : (batch, heads, tokens, head_dim) float32
    cosines, sines : (positions, half) float32, or (batch, tokens, half) without ``positions``
        ``2 * half`` values of each vector are turned, the rest stays.
    positions : (batch, tokens) integers, optional
        Rows of ``cosines`` and ``sines``.
    interleaved : a pair is values 2i and 2i + 1; else i and i + half

    Returns
    -------
    array like ``x``

    Raises
    ------
    ArgumentTypeError, ArgumentValueError
        A dtype, a shape or a position is wrong; the message names it.
    """
    name = "rotary_embedding"
    x = _floats(name, "x", x, (4,))
    ranks = (3,) if positions is None else (2,)
    cosines, sines = _floats(name, "cosines", cosines, ranks), _floats(name, "sines", sines, ranks)
    if positions is not None:
        rows = integers(name, "positions", positions)
        if rows.size and not 0 <= rows.min() <= rows.max() < min(len(cosines), len(sines)):
            raise ArgumentValueError(
                f"{name}: positions must be 0 to {min(len(cosines), len(sines)) - 1}, got {rows.min()} to {rows.max()}"
            )
        cosines, sines = cosines[rows], sines[rows]
    turned = 2 * cosines.shape[-1]
    if flag(name, "interleaved", interleaved):
        x = x.copy()
        x[..., :turned] = _deinterleaved(x[..., :turned])
    y = _core.rotary(x, cosines, sines, thread_count(name, num_threads), isa_name(name, isa))
    if interleaved:
        pairs = y[..., :turned].reshape(*y.shape[:-1], 2, turned // 2)
        y[..., :turned] = np.swapaxes(pairs, -1, -2).reshape(*y.shape[:-1], turned)
    return y


def _deinterleaved(x: FloatArray) -> FloatArray:
    pairs = x.reshape(*x.shape[:-1], x.shape[-1] // 2, 2)
    return np.swapaxes(pairs, -1, -2).reshape(x.shape)


def rms_norm(
    x: FloatArray,
    weight: FloatArray,
    *,
    eps: float = 1e-5,
    num_threads: int | None = None,
    isa: str | None = None,
) -> FloatArray:
    """x / sqrt(mean(x^2) + eps) * weight over the last axes, those of ``weight`` (Zhang and Sennrich, 2019).

    Parameters
    ----------
    x : (..., *weight.shape) float32
    weight : float32
    eps : added to the mean of squares

    Returns
    -------
    array like ``x``

    Raises
    ------
    ArgumentTypeError, ArgumentValueError
        A dtype or shape is wrong; the message names it.
    """
    name = "rms_norm"
    every = tuple(range(1, 33))
    x, weight = _floats(name, "x", x, every), _floats(name, "weight", weight, every)
    lead: Sequence[int] = x.shape[: x.ndim - weight.ndim]
    if (*lead, *weight.shape) != x.shape:
        raise ArgumentValueError(f"{name}: x must end with the axes of weight, {weight.shape}, got shape {x.shape}")
    eps = number(name, "eps", eps)
    if not (math.isfinite(eps) and eps >= 0):
        raise ArgumentValueError(f"{name}: eps must be finite and not negative, got {eps}")
    rows = _core.rms_norm(
        x.reshape(math.prod(lead), weight.size),
        weight.ravel(),
        eps,
        thread_count(name, num_threads),
        isa_name(name, isa),
    )
    return rows.reshape(x.shape)
