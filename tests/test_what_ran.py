"""Each function of the core runs kernels of the instruction set that it was given, and of no other.

Counted in the tables. tests/core holds operators and the paths of steps to it; tests.mutants shows that it can fail.
"""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from edgekern import _core

import kernel_calls

X = np.linspace(-2, 2, 7 * 96, dtype=np.float32).reshape(7, 96)
BYTES = np.arange(7 * 96, dtype=np.uint8).reshape(7, 96)
WEIGHTS = np.ones((96, 70), np.int8)
ONE, ZERO = np.ones(1, np.float32), np.zeros(1, np.int32)
HEADS = np.ones((1, 2, 5, 16), np.float32)
ANGLES = np.zeros((1, 5, 8), np.float32)
INFINITY = float("inf")


def linear(isa: str, w: _core.PackedWeights, *scales: float) -> None:
    x = BYTES if scales else X
    x_scale, y_scale = scales or (None, None)
    bias = np.ones(70, np.float32)
    out_dtype = "uint8" if scales else "float32"
    bounds = (-INFINITY, INFINITY)
    _core.linear(x, w, bias, "none", *bounds, None, x_scale, 0, y_scale, 0, out_dtype, None, isa, 2)


def packed_int4() -> _core.PackedWeights:
    return _core.pack_groups(np.ones((70, 96), np.int8), np.ones((70, 3), np.float32), 32)


def packed_int2() -> _core.PackedWeights:
    return _core.pack_groups(np.ones((70, 96), np.int8), np.ones((70, 2), np.float32), 64, 2)


def scaled() -> _core.PackedWeights:
    return _core.pack_weights(WEIGHTS, np.full(70, 0.5, np.float32))


def attend(isa: str) -> None:
    _core.attention(HEADS, HEADS, HEADS, None, [0], [5], -1, -1, 1.0, 0.0, 2, isa)


def product(isa: str, w: _core.PackedWeights | _core.PackedFloats, gain: bool) -> None:
    _core.product(X, w, None, np.ones(96, np.float32) if gain else None, 1e-5, False, None, isa, 2)


CALLS: dict[str, tuple[Callable[[str], object], set[str]]] = {
    "matmul_integer": (
        lambda isa: _core.matmul_integer(BYTES, _core.pack_weights(WEIGHTS, None), 0, 0, None, isa, 2),
        {"gemm_tile"},
    ),
    "linear": (lambda isa: linear(isa, scaled()), {"quantize_rows", "gemm_tile"}),
    "linear, static": (lambda isa: linear(isa, scaled(), 0.1, 0.1), {"fold_scales", "gemm_tile"}),
    "linear, int4": (lambda isa: linear(isa, packed_int4()), {"w4_quantize", "w4_tile"}),
    "linear, int2": (lambda isa: linear(isa, packed_int2()), {"w4_quantize", "w2_tile"}),
    "quantize_linear": (lambda isa: _core.quantize_linear(X, ONE, ZERO, None, True, None, isa, 2), {"quantize"}),
    "dequantize_linear": (lambda isa: _core.dequantize_linear(BYTES, ONE, ZERO, None, None, isa, 2), {"dequantize"}),
    "dynamic_quantize": (lambda isa: _core.dynamic_quantize(X, isa, 2), {"quantize_rows"}),
    "product, float32": (
        lambda isa: product(isa, _core.pack_float32(np.ones((70, 96), np.float32)), True),
        {"gemm_f32_tile", "normalize_rows"},
    ),
    "product, int8": (lambda isa: product(isa, scaled(), True), {"reduce_rows", "norm_quantize_row", "gemm_tile"}),
    "product, int4": (lambda isa: product(isa, packed_int4(), False), {"w4_quantize", "w4_tile"}),
    "product, int2": (lambda isa: product(isa, packed_int2(), False), {"w4_quantize", "w2_tile"}),
    "rotary": (lambda isa: _core.rotary(HEADS, ANGLES, ANGLES, 2, isa), {"rotate_row"}),
    "rms_norm": (lambda isa: _core.rms_norm(X, np.ones(96, np.float32), 1e-5, 2, isa), {"normalize_rows"}),
    "attention": (attend, {"kv_attend", "kv_merge", "kv_finish"}),
    "measure_dot_peak": (lambda isa: _core.measure_dot_peak(isa, 1, 0.0), {"dot_burst"}),
    "measure_fma_peak": (lambda isa: _core.measure_fma_peak(isa, 1, 0.0), {"fma_burst"}),
}


@pytest.mark.parametrize("name", CALLS)
def test_a_function_of_the_core_runs_the_isa_it_was_given(name: str, isa: str) -> None:
    call, expected = CALLS[name]
    if isa == "avx2":  # which multiplies int16
        expected = {"gemm_spread" if kernel == "gemm_tile" else kernel for kernel in expected}
    kernel_calls.reset()
    call(isa)
    ran = kernel_calls.calls()
    assert set(ran) == {isa}
    assert expected <= set(ran[isa])


EACH_LANE = """
import numpy as np
import kernel_calls
import edgekern as ek
x, a, w = np.ones((3, 8), np.float32), np.ones((3, 8), np.int8), np.ones((8, 70), np.int8)
packed, scaled = ek.pack_weights(w), ek.pack_weights(w, scale=np.ones(70, np.float32))
for call, kernel in (
    (lambda: ek.matmul_integer(a, packed), "gemm_tile"),
    (lambda: ek.linear(x, scaled), "quantize_rows"),
):
    kernel_calls.reset()
    call()
    ran = kernel_calls.calls()
    assert list(ran) == [ek.cpu_info()["isa"]], ran
    assert {kernel, kernel.replace("gemm_tile", "gemm_spread")} & set(ran[ek.cpu_info()["isa"]]), ran
"""


def test_the_package_runs_the_isa_that_the_environment_names(isa: str) -> None:
    """It is read once, so each has a process of its own; the calls take the fast lanes."""
    command = [sys.executable, "-c", EACH_LANE]
    env = {**os.environ, "EDGEKERN_ISA": isa}
    child = subprocess.run(command, cwd=Path(__file__).parent, env=env, capture_output=True, text=True, check=False)
    assert child.returncode == 0, child.stderr
