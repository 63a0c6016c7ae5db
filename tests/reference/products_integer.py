"""Integer products whose zero point is a tensor."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from reference import products_f32
from reference.gemm import matmul_integer

Array = npt.NDArray[Any]


def _rows(machine: Any, step: Any, x: list[Array]) -> Array:
    rows, k, n = (step.arguments[name] for name in ("rows", "k", "columns"))
    weights = machine.matrix(step, 0, k, n)
    return matmul_integer(x[0].reshape(rows, k), weights, int(x[1].reshape(-1)[0]))


def _gemm_integer(machine: Any, step: Any, x: list[Array], y: Any) -> Array:
    return _rows(machine, step, x)


def _gemm_scaled(machine: Any, step: Any, x: list[Array], y: Any) -> Array:
    sums = _rows(machine, step, x).astype(np.float32)
    bias = machine.blob(step, 1, "<f4")[: step.arguments["columns"]]
    with np.errstate(all="ignore"):
        return products_f32.finish(machine, step, sums * x[2].reshape(-1), bias, y, own=3)


def _conv_integer(machine: Any, step: Any, x: list[Array], y: Any) -> Array:
    return machine.convolved(step, x[0], int(x[1].reshape(-1)[0]))


STEPS = {"GEMM_INTEGER": _gemm_integer, "GEMM_SCALED": _gemm_scaled, "CONV_INTEGER": _conv_integer}
