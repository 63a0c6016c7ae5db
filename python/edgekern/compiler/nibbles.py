"""Packed weights whose codes fit into 4 bits, as a file has them: half the bytes, in the order of the packed ones."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from edgekern._core import StepKind, Storage
from edgekern.artifact.container import Blob, Form, Kept

_LINE = 64  # csrc/weights/nibbles.h
_STRIP, _QUAD, _SUM_BYTES = 16, 4, 4  # csrc/gemm/pack.h
_LEAST_BYTES = 1024  # what is smaller saves a line or two of a file, and takes as much of its index

_CONVOLUTIONS = (StepKind.CONV, StepKind.CONV_WIDE, StepKind.CONV_INTEGER)
_DEPTHWISE = (StepKind.DEPTHWISE, StepKind.DEPTHWISE_WIDE)
_MATRICES = (
    StepKind.GEMM,
    StepKind.GEMM_WIDE,
    StepKind.GEMM_INTEGER,
    StepKind.GEMM_SCALED,
    StepKind.GEMM_DYNAMIC,
)


def in_four_bits(content: bytes, kind: StepKind, arguments: Mapping[str, Any]) -> Blob:
    """The first blob of a step, or the same in 4 bits, where it has codes that fit."""
    parts, columns, depth = _packed(kind, arguments)
    columns = _rounded(columns, _STRIP)
    codes, sums = columns * depth, columns * _SUM_BYTES
    if len(content) < _LEAST_BYTES or not codes or len(content) != parts * (codes + sums):
        return content
    rows = np.frombuffer(content, np.int8).reshape(parts, codes + sums)
    if (rows[:, :codes].min() < -8) or (rows[:, :codes].max() > 7):
        return content
    lines = rows[:, :codes].reshape(-1, 2, _LINE // 2).view(np.uint8)
    nibbles = (lines[:, 0] & 15 | lines[:, 1] << 4).reshape(-1)
    begin = _rounded(nibbles.size, _LINE)
    stored = np.zeros(begin + parts * sums, np.uint8)
    stored[: nibbles.size], stored[begin:] = nibbles, rows[:, codes:].reshape(-1).view(np.uint8)
    return Kept(stored, Form(Storage.INT4, parts, codes))


def _packed(kind: StepKind, arguments: Mapping[str, Any]) -> tuple[int, int, int]:
    """(parts, columns of each, bytes of a column) of a step's packed weights; nothing of one that has none."""
    if kind in _MATRICES:
        return 1, arguments["columns"], _rounded(arguments["k"], _QUAD)
    if kind not in (*_CONVOLUTIONS, *_DEPTHWISE):
        return 0, 0, 0
    taps = arguments["kernel_h"] * arguments["kernel_w"]
    if kind in _DEPTHWISE:
        return 1, arguments["channels"], _rounded(taps, _QUAD)
    groups, columns, channels = (arguments[name] for name in ("groups", "out_channels", "in_channels"))
    if kind == StepKind.CONV_INTEGER and groups == channels == columns:
        return 1, columns, _rounded(taps, _QUAD)
    return groups, columns // groups, taps * _rounded(channels // groups, _QUAD)


def _rounded(value: int, unit: int) -> int:
    return -(-value // unit) * unit
