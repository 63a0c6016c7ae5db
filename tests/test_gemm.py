"""matmul_integer: exact on every ISA, one domain, no hidden copies."""

import math
import os
import subprocess
import sys
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

import edgekern as ek
from edgekern import _core
from edgekern.errors import ArgumentTypeError, ArgumentValueError, UnsupportedIsaError

from guarded import guarded, guarded_empty
from reference import gemm as reference
from reference.quantize import bounds
from strategies import MATMUL_SHAPES, fill_integers, int8_matmul_operands


def multiply(a: npt.NDArray[Any], b: npt.NDArray[np.int8], isa: str, threads: int = 1) -> npt.NDArray[np.int32]:
    return _core.matmul_integer(a, _core.pack_weights(b, None), 0, 0, None, isa, threads)


@pytest.mark.parametrize("dtype", [np.uint8, np.int8])
@pytest.mark.parametrize("shape", MATMUL_SHAPES.values(), ids=MATMUL_SHAPES)
def test_gemm_equals_numpy(shape: tuple[int, int, int], dtype: type, isa: str, rng: np.random.Generator) -> None:
    m, n, k = shape
    a = fill_integers((m, k), dtype, "random", 1)
    b = fill_integers((k, n), np.int8, "random", 2)
    expected = reference.matmul_integer(a, b)
    for threads in (1, 2):
        assert_array_equal(multiply(a, b, isa, threads), expected)


@pytest.mark.parametrize("dtype", [np.uint8, np.int8])
def test_gemm_of_one_row_on_weights_that_no_cache_holds(dtype: type, isa: str) -> None:
    k, n = 3001, 3000  # an odd number of whole panels, and a narrow one
    a, b = fill_integers((1, k), dtype, "random", 1), fill_integers((k, n), np.int8, "random", 2)
    expected = (a.astype(np.float64) @ b.astype(np.float64)).astype(np.int32)  # every partial sum is exact
    for threads in (1, 2, 3):
        assert_array_equal(multiply(a, b, isa, threads), expected)


@given(operands=int8_matmul_operands(max_side=140, max_depth=300), data=st.data())
def test_gemm_isas_agree_with_numpy_for_any_zero_points(operands: Any, data: st.DataObject) -> None:
    a, b = operands
    lo, hi = bounds(a.dtype)
    za = data.draw(st.integers(lo, hi))
    zb = data.draw(st.one_of(st.just(0), st.integers(-128, 127)))
    per_column = data.draw(st.booleans())
    zero_b: Any = fill_integers((b.shape[1],), np.int8, "random", 7) if per_column else zb
    expected = reference.matmul_integer(a, b, za, zero_b)
    for isa in _core.available_isas():
        assert_array_equal(_core.matmul_integer(a, b, za, zero_b, None, isa, 2), expected)


@given(
    m=st.integers(1, 3),
    n=st.integers(1, 3),
    k=st.integers(65_000, 140_000),
    fill=st.sampled_from(["lowest", "highest", "extremes"]),
    dtype=st.sampled_from([np.uint8, np.int8]),
)
def test_gemm_wraps_like_numpy_past_the_int32_range(m: int, n: int, k: int, fill: str, dtype: type) -> None:
    a, b = fill_integers((m, k), dtype, fill, 3), fill_integers((k, n), np.int8, "lowest", 4)
    expected = reference.matmul_integer(a, b)
    for isa in _core.available_isas():
        assert_array_equal(multiply(a, b, isa), expected)


def test_gemm_all_minus_128_does_not_saturate(isa: str) -> None:
    a, b = np.full((7, 64), -128, np.int8), np.full((64, 70), -128, np.int8)
    assert_array_equal(multiply(a, b, isa), np.full((7, 70), 64 * 128 * 128, np.int32))
    assert_array_equal(multiply(np.full((7, 64), 255, np.uint8), b, isa), np.full((7, 70), -64 * 255 * 128, np.int32))


@pytest.mark.parametrize("side", ["end", "begin"])
@pytest.mark.parametrize("shape", [(1, 1, 1), (5, 33, 7), (6, 64, 64), (13, 130, 61), (13, 200, 3)])
def test_gemm_never_touches_memory_past_an_operand(shape: tuple[int, int, int], side: Any, isa: str) -> None:
    m, n, k = shape
    a, b = fill_integers((m, k), np.int8, "random", 5), fill_integers((k, n), np.int8, "random", 6)
    out = guarded_empty((m, n), np.int32, side)
    packed = _core.pack_weights(guarded(b, side), None)
    assert_array_equal(
        _core.matmul_integer(guarded(a, side), packed, 0, 0, out, isa, 2), reference.matmul_integer(a, b)
    )


@pytest.mark.parametrize("k", [3, 9])
def test_a_result_larger_than_the_caches_is_stored_past_them(k: int, isa: str) -> None:
    m, n = 2103, 4112
    memory = np.zeros(m * n + 16, np.int32)
    out = memory[-memory.ctypes.data % 64 // 4 :][: m * n].reshape(m, n)  # on a line: only then is it streamed
    a, b = fill_integers((m, k), np.uint8, "random", 7), fill_integers((k, n), np.int8, "random", 8)
    _core.matmul_integer(a, _core.pack_weights(b, None), 0, 0, out, isa, 2)
    assert_array_equal(out, reference.matmul_integer(a, b))


def test_out_is_written_and_returned() -> None:
    a, b = np.ones((3, 4), np.int8), np.ones((4, 5), np.int8)
    out = np.zeros((3, 5), np.int32)
    assert ek.matmul_integer(a, b, out=out) is out
    assert_array_equal(out, np.full((3, 5), 4))


def test_weights_of_any_strides_are_taken_without_a_copy() -> None:
    b = fill_integers((64, 96), np.int8, "random", 8)
    a = fill_integers((5, 48), np.uint8, "random", 9)
    for view in (b.T[::2], b[10:58, ::3], b[48 - 1 :: -1, ::-1], np.broadcast_to(b[0], (48, 96))):
        assert_array_equal(ek.matmul_integer(a, ek.pack_weights(view)), reference.matmul_integer(a, view))


def test_rows_of_a_may_lie_apart() -> None:
    wide = fill_integers((9, 40), np.int8, "random", 10)
    b = fill_integers((17, 8), np.int8, "random", 11)
    assert_array_equal(ek.matmul_integer(wide[::2, 3:20], b), reference.matmul_integer(wide[::2, 3:20], b))


A, B = np.zeros((3, 4), np.int8), np.zeros((4, 5), np.int8)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda: ek.matmul_integer(A.astype(np.float32), B),
            ArgumentTypeError,
            "a must be uint8 or int8, got float32; call quantize_linear first",
        ),
        (lambda: ek.matmul_integer(A, B.astype(np.uint8)), ArgumentTypeError, "b must be int8, got uint8"),
        (lambda: ek.matmul_integer([[1]], B), ArgumentTypeError, "a must be a NumPy array, got list"),
        (lambda: ek.matmul_integer(A, [[1]]), ArgumentTypeError, "b must be a NumPy array, got list"),
        (lambda: ek.matmul_integer(A[0], B), ArgumentValueError, r"a must have 2 axes, got shape \(4,\)"),
        (lambda: ek.matmul_integer(A, B[None]), ArgumentValueError, r"b must have 2 axes, got shape \(1, 4, 5\)"),
        (
            lambda: ek.matmul_integer(A, B[:3]),
            ArgumentValueError,
            "b has 3 rows but a has 4 columns; inner dimensions must match",
        ),
        (lambda: ek.matmul_integer(A, ek.pack_weights(B[:3])), ArgumentValueError, "b has 3 rows but a has 4 columns"),
        (
            lambda: ek.matmul_integer(A.T, np.zeros((3, 2), np.int8)),
            ArgumentValueError,
            "a must have contiguous rows; pass numpy.ascontiguousarray",
        ),
        (
            lambda: ek.matmul_integer(A, B, out=np.zeros((3, 5), np.int64)),
            ArgumentTypeError,
            "out must be int32, got int64",
        ),
        (
            lambda: ek.matmul_integer(A, B, out=np.zeros((5, 3), np.int32)),
            ArgumentValueError,
            r"out must have shape \(3, 5\), got \(5, 3\)",
        ),
        (
            lambda: ek.matmul_integer(A, B, out=np.zeros((5, 3), np.int32).T),
            ArgumentValueError,
            "out must be C-contiguous",
        ),
        (lambda: ek.matmul_integer(A, B, out=[[0]]), ArgumentTypeError, "out must be a NumPy array, got list"),
        (
            lambda: ek.matmul_integer(A, B, a_zero_point=128),
            ArgumentValueError,
            r"a_zero_point must lie in \[-128, 127\] for int8, got 128",
        ),
        (
            lambda: ek.matmul_integer(A, B, b_zero_point=np.zeros(3, np.int8)),
            ArgumentValueError,
            r"one per column \(5\)",
        ),
        *(
            (lambda z=z: ek.matmul_integer(A, B, b_zero_point=z), ArgumentValueError, "b_zero_point must")
            for z in (
                1.9,
                np.full(5, 2**32 + 1),
                np.full(5, 2**64 - 1, np.uint64),
                np.full(5, 0.5),
                128,
                2**70,
                None,
                "1",
            )
        ),
        (
            lambda: ek.matmul_integer(A, B, num_threads=0),
            ArgumentValueError,
            "num_threads must be an integer of at least 1, got 0",
        ),
        (lambda: ek.pack_weights(B.astype(np.float32)), ArgumentTypeError, "w must be int8, got float32"),
        (
            lambda: ek.pack_weights(B, scale=np.zeros(4, np.float32)),
            ArgumentValueError,
            r"one per column \(5\), got shape \(4,\)",
        ),
        (lambda: ek.pack_weights(B, scale=0.0), ArgumentValueError, "scale must be positive and finite"),
        (lambda: ek.pack_weights(B, scale=math.nan), ArgumentValueError, "scale must be positive and finite"),
        (lambda: ek.tile_plan(1, 1, 1, tile=100), ArgumentValueError, "multiple of 64, got 100"),
        (
            lambda: ek.tile_plan(1, -1, 1),
            ArgumentValueError,
            "n must be an integer of at least 0 and below 2.63, got -1",
        ),
        (lambda: ek.tile_plan(2**62, 2**62, 1), ArgumentValueError, "blocks are more than 16777216"),
        (lambda: ek.tile_plan(2**70, 1, 1), ArgumentValueError, "m must be an integer"),
        (lambda: ek.tile_plan(1, 1, 1, device="kirin"), ArgumentValueError, "unknown device 'kirin'; known are host"),
    ],
)
def test_bad_input_is_refused_by_name(call: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()


def test_read_only_and_overlapping_out_are_refused() -> None:
    out = np.zeros((3, 5), np.int32)
    out.flags.writeable = False
    with pytest.raises(ArgumentValueError, match="out is read-only"):
        ek.matmul_integer(A, B, out=out)
    memory = np.zeros(64, np.int32)
    a = memory.view(np.int8)[:12].reshape(3, 4)
    with pytest.raises(ArgumentValueError, match="out overlaps a"):
        ek.matmul_integer(a, B, out=memory[:15].reshape(3, 5))


def in_a_process_with_isa(isa: str, code: str) -> str:
    """What the code prints: EDGEKERN_ISA is read once, when the package first needs it."""
    child = subprocess.run(
        [sys.executable, "-c", f"import edgekern as ek, numpy as np\n{code}"],
        env={**os.environ, "EDGEKERN_ISA": isa},
        capture_output=True,
        text=True,
        check=True,
    )
    return child.stdout.strip()


def test_an_isa_the_cpu_lacks_is_refused() -> None:
    missing = "neon" if "avx2" in _core.available_isas() or "neon" not in _core.available_isas() else "avx2"
    with pytest.raises(UnsupportedIsaError, match=f"{missing}: this CPU does not have it; it has .*scalar"):
        multiply(A, B, missing)
    refusal = """
try:
    ek.matmul_integer(np.zeros((2, 3), np.int8), ek.pack_weights(np.zeros((3, 4), np.int8)))
except ek.errors.UnsupportedIsaError as error:
    print(error)
"""
    assert f"EDGEKERN_ISA={missing}: this CPU does not have it" in in_a_process_with_isa(missing, refusal)
    assert in_a_process_with_isa("scalar", "print(ek.cpu_info()['isa'])") == "scalar"


def test_the_isa_of_the_environment_is_read_once() -> None:
    code = f"""
import os
first = ek.cpu_info()['isa']
os.environ['EDGEKERN_ISA'] = {_core.available_isas()[0]!r}
print(first, ek.cpu_info()['isa'])
"""
    assert in_a_process_with_isa("scalar", code) == "scalar scalar"


def test_tile_plan_of_the_article_is_256_cube_blocks() -> None:
    plan = ek.tile_plan(4096, 4096, 128)
    assert plan.grid == (16, 16)
    assert (plan.num_cube, plan.num_vector, plan.padding) == (256, 0, 0.0)
    assert "16 x 16 blocks of 256, 256 Cube, 0 Vector" in str(plan)


@given(
    m=st.integers(1, 700), n=st.integers(1, 700), k=st.integers(1, 300), device=st.sampled_from(_core.device_names())
)
def test_tile_plan_covers_c_once_and_takes_the_cheaper_unit(m: int, n: int, k: int, device: str) -> None:
    plan = ek.tile_plan(m, n, k, device=device)
    covered = np.zeros((m, n), np.int32)
    for block in plan.blocks:
        (row0, row1), (col0, col1) = block.rows, block.cols
        covered[row0:row1, col0:col1] += 1
        assert block.padded[0] >= row1 - row0
        assert block.padded[1] >= col1 - col0
    assert_array_equal(covered, 1)
    assert len(plan.blocks) == math.prod(plan.grid)


def test_a_tail_goes_to_the_unit_that_costs_less() -> None:
    whole = ek.tile_plan(512, 512, 128, device="ascend310p3")
    assert whole.num_vector == 0
    thin = ek.tile_plan(257, 256, 16, device="ascend310p3")  # one row of a 16-row cube: padding costs more than Vector
    assert [block.unit for block in thin.blocks] == ["cube", "vector"]
    wide = ek.tile_plan(256 + 255, 256, 128, device="ascend310p3")
    assert [block.unit for block in wide.blocks] == ["cube", "cube"]
    assert wide.blocks[1].padded == (256, 256)


def test_large_results_start_on_a_line_of_64_bytes():
    for m in (512, 9000):  # from the C library's heap, and mapped
        a, w = np.ones((m, 4), np.int8), ek.pack_weights(np.ones((4, 1024), np.int8), scale=1.0)
        for c in (ek.matmul_integer(a, w), ek.linear(a.astype(np.float32), w)):
            assert c.ctypes.data % 64 == 0
            assert c.flags.c_contiguous
            assert c.flags.writeable
            assert (c == 4).all()


@pytest.mark.parametrize("offset", [0, 4, 16, 60])
def test_results_larger_than_the_caches_may_start_anywhere(offset: int, isa: str) -> None:
    m, n, k = 8200, 1040, 3
    a, b = fill_integers((m, k), np.uint8, "random", 9), fill_integers((k, n), np.int8, "random", 10)
    x = np.random.default_rng(11).normal(size=(m, k)).astype(np.float32)
    w = ek.pack_weights(b, scale=0.01)
    memory = np.zeros(m * n + 64, np.int32)
    start = (-memory.ctypes.data % 64 + offset) // 4
    out = memory[start : start + m * n].reshape(m, n)
    expected = a.astype(np.int32) @ b.astype(np.int32)
    halves = [
        _core.linear(part, w, None, "clamp", -1.0, 1.0, None, None, 0, None, 0, "float32", None, isa, 2)
        for part in (x[: m // 2], x[m // 2 :])
    ]
    for threads in (1, 2):
        memory[:] = 7
        assert_array_equal(_core.matmul_integer(a, w, 0, 0, out, isa, threads), expected)
        assert np.all(memory[:start] == 7)
        assert np.all(memory[start + m * n :] == 7)
        y = out.view(np.float32)
        _core.linear(x, w, None, "clamp", -1.0, 1.0, None, None, 0, None, 0, "float32", y, isa, threads)
        assert_array_equal(y, np.concatenate(halves))
        assert np.all(memory[:start] == 7)
        assert np.all(memory[start + m * n :] == 7)
