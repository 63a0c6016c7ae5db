"""torch's 8-bit products: the bare integer one, and quantized linear on either engine."""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np

from bench.harness import Contender, in_turn
from bench.peers import Array, Check


def int_mm(a: Array, weights: Sequence[Array], check: Check) -> Contender:
    import torch

    left = torch.from_numpy(a)
    pairs = [(torch.from_numpy(w), torch.empty((a.shape[0], w.shape[1]), dtype=torch.int32)) for w in weights]
    read = weights[0].size
    calls = [partial(torch._int_mm, left, w, out=c) for w, c in pairs]
    return Contender("torch_int_mm", in_turn(calls), check, len(calls), read)


@contextmanager
def _engine(name: str) -> Iterator[None]:
    """Weights packed inside belong to this engine; torch warns that quantized tensors will go one day."""
    import torch

    before = torch.backends.quantized.engine
    torch.backends.quantized.engine = name
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        torch.backends.quantized.engine = before


def _pack(w: Array, scale: float | Array, bias: Array | None) -> Any:
    import torch

    rows = torch.from_numpy(np.ascontiguousarray(w.T))
    if isinstance(scale, np.ndarray):
        scales, zeros = torch.from_numpy(scale.astype(np.float64)), torch.zeros(len(scale), dtype=torch.int64)
        quantized = torch._make_per_channel_quantized_tensor(rows, scales, zeros, 0)
    else:
        quantized = torch._make_per_tensor_quantized_tensor(rows, scale, 0)
    return torch.ops.quantized.linear_prepack(quantized, None if bias is None else torch.from_numpy(bias))


def static(
    x: Array,
    weights: Sequence[Array],
    scales: tuple[float, float | Array, float],
    zero_points: tuple[int, int],
    name: str,
    *,
    engine: str,
    check: Check,
    bias: Array | None = None,
) -> Contender:
    """Quantized linear: uint8 in, uint8 out; scales of x, w and y, zero points of x and y."""
    import torch

    with _engine(engine):
        left = torch._make_per_tensor_quantized_tensor(torch.from_numpy(x), scales[0], zero_points[0])
        packed = [_pack(w, scales[1], bias) for w in weights]
    linear, scale, zero = torch.ops.quantized.linear, scales[2], zero_points[1]
    calls = [partial(linear, left, w, scale, zero) for w in packed]
    return Contender(name, in_turn(calls), check, len(calls), weights[0].size)


def dynamic(
    x: Array, weights: Sequence[Array], scale: Array, bias: Array, name: str, *, engine: str, check: Check
) -> Contender:
    """Quantized linear: float32 in, quantized on the way, float32 out."""
    import torch

    left = torch.from_numpy(x)
    with _engine(engine):
        packed = [_pack(w, scale, bias) for w in weights]
    linear = torch.ops.quantized.linear_dynamic
    calls = [partial(linear, left, w) for w in packed]
    return Contender(name, in_turn(calls), check, len(calls), weights[0].size)
