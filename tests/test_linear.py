"""linear: every epilogue equals its definition bit for bit, on every ISA and for any number of threads."""

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

import edgekern as ek
from edgekern import _core
from edgekern.errors import ArgumentTypeError, ArgumentValueError

from guarded import guarded, guarded_empty
from reference import linear as reference
from reference.activations import ACTIVATIONS, exact
from reference.quantize import quantize_linear
from strategies import fill_integers, float_arrays

NONE = (-math.inf, math.inf)
CURVES: list[reference.Curve] = [NONE, (0.0, math.inf), (0.0, 6.0), (-0.5, 0.25), "gelu", "gelu_tanh", "silu", "swiglu"]
FLOATS = ["float32", "float16", "bfloat16"]


def run(isa: str, threads: int, out: Any, x: Any, w: Any, w_scale: Any, bias: Any, curve: Any, *rest: Any) -> Any:
    """``_core.linear`` with the arguments of the reference."""
    residual, x_scale, x_zero, y_scale, y_zero, dtype = rest
    name, lo, hi = (curve, 0.0, 0.0) if isinstance(curve, str) else ("clamp", *curve)
    packed = _core.pack_weights(w, w_scale)
    return _core.linear(
        x, packed, bias, name, lo, hi, residual, x_scale, x_zero, y_scale, y_zero, dtype, out, isa, threads
    )


@st.composite
def layers(draw: st.DrawFn, max_m: int = 20, max_n: int = 150, max_k: int = 90) -> tuple[Any, ...]:
    """The arguments of the reference: any kind of input, activation and result."""
    m, n, k = draw(st.integers(0, max_m)), draw(st.integers(1, max_n)), draw(st.integers(0, max_k))
    curve = draw(st.sampled_from(CURVES))
    n += n % 2 if curve == "swiglu" else 0
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    w = fill_integers((k, n), np.int8, draw(st.sampled_from(["random", "extremes"])), 12)
    w_scale = rng.uniform(1e-4, 1e-2, n).astype(np.float32)
    bias = draw(st.one_of(st.none(), float_arrays((n,))))
    columns = n // 2 if curve == "swiglu" else n
    residual = draw(st.one_of(st.none(), float_arrays((m, columns), special=True)))
    if draw(st.booleans()):
        x: Any = draw(float_arrays((m, k), special=draw(st.booleans())))
        return x, w, w_scale, bias, curve, residual, None, 0, None, 0, draw(st.sampled_from(FLOATS))
    x = fill_integers((m, k), draw(st.sampled_from([np.uint8, np.int8])), "random", 13)
    x_zero = draw(st.integers(0, 127))
    if draw(st.booleans()):
        return x, w, w_scale, bias, curve, residual, 0.02, x_zero, None, 0, draw(st.sampled_from(FLOATS))
    y_scale = draw(st.sampled_from([0.5, 0.037, 1e-9]))
    bias = None if bias is None else np.clip(bias, -50, 50)
    return (
        x,
        w,
        w_scale,
        bias,
        curve,
        residual,
        0.02,
        x_zero,
        y_scale,
        draw(st.integers(0, 127)),
        draw(st.sampled_from(["uint8", "int8"])),
    )


@given(layer=layers())
def test_linear_has_one_definition(layer: tuple[Any, ...]) -> None:
    expected = reference.linear(*layer)
    dtype = layer[-1]
    for isa in _core.available_isas():
        for threads in (1, 2):
            got = run(isa, threads, None, *layer)
            if dtype in ("float16", "bfloat16"):  # the payload of a NaN is open
                got, wanted = widened(got, dtype), widened(expected, dtype)
                assert_array_equal(got, wanted)
                assert_array_equal(np.signbit(got[~np.isnan(got)]), np.signbit(wanted[~np.isnan(wanted)]))
            else:
                assert_array_equal(got, expected)


def widened(bits: npt.NDArray[np.uint16], dtype: str) -> npt.NDArray[np.float32]:
    if dtype == "float16":
        return bits.view(np.float16).astype(np.float32)
    return (bits.astype(np.uint32) << np.uint32(16)).view(np.float32)


@pytest.mark.parametrize("shape", [(1, 130, 33), (7, 64, 147), (200, 48, 36), (300, 70, 20)])
@pytest.mark.parametrize("side", ["end", "begin"])
def test_linear_never_touches_memory_past_an_operand(shape: tuple[int, int, int], side: Any, isa: str) -> None:
    m, n, k = shape
    rng = np.random.default_rng(5)
    x = rng.normal(size=(m, k)).astype(np.float32)
    w, scale = fill_integers((k, n), np.int8, "random", 6), rng.uniform(1e-4, 1e-2, n).astype(np.float32)
    bias = rng.normal(size=n).astype(np.float32)
    for curve, dtype in ((NONE, "float32"), ("gelu", "float16"), ("silu", "bfloat16"), ("swiglu", "float32")):
        columns = n // 2 if curve == "swiglu" else n
        residual = rng.normal(size=(m, columns)).astype(np.float32)
        out = guarded_empty((m, columns), np.float32 if dtype == "float32" else np.uint16, side)
        rest = (curve, guarded(residual, side), None, 0, None, 0, dtype)
        run(isa, 2, out, guarded(x, side), w, scale, guarded(bias, side), *rest)
        assert_array_equal(out, reference.linear(x, w, scale, bias, curve, residual, None, 0, None, 0, dtype))
    q = quantize_linear(x, np.float32(0.02), 0, np.int8)
    for curve in (NONE, "gelu"):
        out = guarded_empty((m, n), np.uint8, side)
        rest = (curve, None, 0.02, 0, 0.1, 9, "uint8")
        run(isa, 2, out, guarded(q, side), w, scale, guarded(bias, side), *rest)
        assert_array_equal(out, reference.linear(q, w, scale, bias, *rest))


def every_kind_of_float(rng: np.random.Generator) -> npt.NDArray[np.float32]:
    """All exponents of both signs, dense where activations bend, and the special values."""
    spread = np.ldexp(rng.uniform(1, 2, 20_000), rng.integers(-149, 128, 20_000)) * rng.choice([-1, 1], 20_000)
    dense = rng.uniform(-16, 16, 60_000)
    tail = rng.uniform(-115, -80, 8_000)
    odd = [np.nan, np.inf, -np.inf, 0.0, 1e-45, -1e-45, 3.4e38, -3.4e38, -14.5, -11.0, -110.0]
    return np.concatenate([spread, dense, tail, odd]).astype(np.float32)


def through_linear(name: str, x: npt.NDArray[np.float32], isa: str) -> npt.NDArray[np.float32]:
    """An activation of anything: as the bias of a layer without depth."""
    packed = _core.pack_weights(np.zeros((0, x.size), np.int8), 1.0)
    none = np.zeros((1, 0), np.float32)
    return _core.linear(none, packed, x, name, 0.0, 0.0, None, None, 0, None, 0, "float32", None, isa, 1)[0]


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations_have_one_definition(name: str, isa: str, rng: np.random.Generator) -> None:
    x = every_kind_of_float(rng)
    with np.errstate(all="ignore"):
        expected = ACTIVATIONS[name](x)
    got = through_linear(name, x, isa)
    assert_array_equal(got, expected)
    assert_array_equal(np.signbit(got[~np.isnan(x)]), np.signbit(expected[~np.isnan(x)]))


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations_are_within_five_units_in_the_last_place(name: str, rng: np.random.Generator) -> None:
    x = every_kind_of_float(rng)
    x = x[np.isfinite(x)]
    got = through_linear(name, x, "")
    with np.errstate(all="ignore"):
        expected = np.nan_to_num(exact(name, x), nan=0.0)  # infinity times zero, far below
        unit = np.spacing(np.abs(expected).astype(np.float32)).astype(np.float64)
    assert np.max(np.abs(got - expected) / unit) < 5


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations_of_what_is_no_number(name: str, isa: str) -> None:
    got = through_linear(name, np.array([np.nan, np.inf, -np.inf], np.float32), isa)
    assert np.isnan(got[0])
    assert got[1] == np.inf
    assert got[2] == 0
    assert np.signbit(got[2])


@pytest.mark.parametrize("curve", [NONE, (0.0, math.inf), (-math.inf, 6.0), (-1.0, 1.0)])
@pytest.mark.parametrize("dtype", FLOATS)
def test_a_clamp_keeps_a_nan(curve: tuple[float, float], dtype: str, isa: str) -> None:
    packed = _core.pack_weights(np.zeros((0, 70), np.int8), 1.0)
    x = np.resize(np.array([np.nan, 7, -7, np.inf, -np.inf], np.float32), 70)
    layer = (np.zeros((1, 0), np.float32), packed, x, "clamp", *curve, None, None, 0, None, 0, dtype, None, isa, 1)
    got = _core.linear(*layer)
    assert_array_equal(got if dtype == "float32" else widened(got, dtype), [np.clip(x, *curve)])


@pytest.mark.parametrize(("dtype", "smallest"), [("uint8", 0), ("int8", -128)])
def test_a_nan_that_becomes_a_byte_is_the_smallest(dtype: str, smallest: int, isa: str) -> None:
    packed, zeros = _core.pack_weights(np.zeros((0, 70), np.int8), 1.0), np.zeros((1, 70), np.float32)
    bias = np.full(70, np.nan, np.float32)
    layer = (np.zeros((1, 0), np.uint8), packed, bias, "clamp", 0.0, math.inf, zeros, 1.0, 0, 0.5, 9, dtype)
    assert_array_equal(_core.linear(*layer, None, isa, 1), np.full((1, 70), smallest))


def test_half_precision_rounds_every_exponent_to_nearest_even(isa: str, rng: np.random.Generator) -> None:
    x = every_kind_of_float(rng)
    ties = (rng.integers(0, 2**16, 20_000, dtype=np.uint32) << 16 | 0x8000).view(np.float32)
    ties13 = (rng.integers(0x38800000 >> 13, 0x477FF000 >> 13, 20_000, dtype=np.uint32) << 13 | 0x1000).view(np.float32)
    subnormal = np.ldexp(rng.integers(0, 4096, 4_000) + 0.5, -25).astype(np.float32)
    edges = np.array([65519.9, 65520, 2**-25, 2**-24], np.float32)
    x = np.nan_to_num(np.concatenate([x, ties, ties13, subnormal, edges]), nan=np.nan, posinf=np.inf, neginf=-np.inf)
    packed = _core.pack_weights(np.zeros((0, x.size), np.int8), 1.0)
    none, residual = np.zeros((1, 0), np.float32), x[None]
    for dtype in ("float16", "bfloat16"):
        got = _core.linear(none, packed, None, "clamp", *NONE, residual, None, 0, None, 0, dtype, None, isa, 1)
        expected = reference.store(np.float32(0) + residual, dtype, None, 0)
        assert_array_equal(got[~np.isnan(residual)], expected[~np.isnan(residual)])
        assert np.isnan(widened(got, dtype)[np.isnan(residual)]).all()


def test_values_near_a_tie(isa: str, rng: np.random.Generator) -> None:
    """A scale from outside divides, a row's own multiplies: next to a tie the two are not the same."""
    scale = rng.uniform(1e-3, 1.0, 400).astype(np.float32)
    ties = (rng.integers(-127, 127, (400, 300)) + 0.5).astype(np.float32)
    steps = rng.integers(-3, 4, ties.shape).astype(np.int32)
    x = (ties * scale[:, None]).astype(np.float32)
    x = (x.view(np.int32) + steps).view(np.float32)
    x[:, 0] = scale * np.float32(127)  # sets the row's own scale next to `scale`
    packed = _core.pack_weights(np.eye(300, dtype=np.int8), 1.0)
    got = _core.linear(x, packed, None, "clamp", *NONE, None, None, 0, None, 0, "float32", None, isa, 1)
    q, row_scale = reference.dynamic_quantize(x)
    assert_array_equal(got, q.astype(np.float32) * row_scale[:, None])
    divided = reference.quantize_linear(x, row_scale[:, None], 0, np.int8)
    assert (divided != q).any()
    assert_array_equal(_core.quantize_linear(x, row_scale, np.zeros(400, np.int32), 0, True, None, isa, 1), divided)


@pytest.mark.parametrize("peak", [1e-45, 1e-40, 2**-111, 2**-110, 1e-30, 3.4e38, math.inf])
def test_rows_of_any_size_are_quantized_alike(peak: float, isa: str, rng: np.random.Generator) -> None:
    with np.errstate(all="ignore"):
        x = (rng.uniform(-1, 1, (5, 77)) * np.float32(peak)).astype(np.float32)
    x[:, 3] = np.float32(peak)
    x[1, 5] = np.nan
    w, scale = fill_integers((77, 20), np.int8, "random", 8), np.full(20, 0.5, np.float32)
    layer = (x, w, scale, None, NONE, None, None, 0, None, 0, "float32")
    assert_array_equal(run(isa, 1, None, *layer), reference.linear(*layer))


def test_infinities_keep_their_sign(isa: str, rng: np.random.Generator) -> None:
    """They became -128 of either sign, so that linear gave the wrong infinity for half of them."""
    x = rng.normal(size=(4, 77)).astype(np.float32)
    x[0, 5], x[1, 70], x[2, [1, 2]], x[3, [3, 4]] = np.inf, -np.inf, (np.inf, -np.inf), (np.inf, np.nan)
    codes, scale = _core.dynamic_quantize(x, isa, 1)
    assert_array_equal(scale, np.full(4, np.inf))
    wanted = np.zeros(x.shape, np.int8)
    wanted[0, 5], wanted[1, 70], wanted[2, [1, 2]], wanted[3, [3, 4]] = 127, -128, (127, -128), (127, -128)
    assert_array_equal(codes, wanted)
    w, w_scale = fill_integers((77, 40), np.int8, "random", 8), np.full(40, 0.5, np.float32)
    layer = (x, w, w_scale, None, NONE, None, None, 0, None, 0, "float32")
    got = run(isa, 1, None, *layer)
    assert_array_equal(got, reference.linear(*layer))
    with np.errstate(invalid="ignore"):  # 0 times infinity
        assert_array_equal(got[:2], x[:2] @ (w * w_scale[0]))


def test_products_past_int32_saturate(isa: str) -> None:
    x = np.array([[255] * 64, [0] * 64], np.uint8)
    w = np.concatenate([np.full((64, 40), 127), np.full((64, 40), -128)], axis=1).astype(np.int8)
    for dtype, lo, hi in (("uint8", 0, 255), ("int8", -128, 127)):
        layer = (x, w, np.full(80, 1e30, np.float32), None, NONE, None, 1.0, 100, 1.0, 7, dtype)
        got = run(isa, 1, None, *layer)
        assert_array_equal(got, [[hi] * 40 + [lo] * 40, [lo] * 40 + [hi] * 40])


def test_rows_are_cut_among_threads_without_a_change(isa: str, rng: np.random.Generator) -> None:
    x = rng.normal(size=(1003, 260)).astype(np.float32)
    w, scale = fill_integers((260, 70), np.int8, "random", 9), np.full(70, 1e-3, np.float32)
    residual = rng.normal(size=(1003, 70)).astype(np.float32)
    layer = (x, w, scale, None, "silu", residual, None, 0, None, 0, "float32")
    expected = reference.linear(*layer)
    for threads in (1, 2, 3):
        assert_array_equal(run(isa, threads, None, *layer), expected)


def test_a_result_larger_than_the_caches_is_stored_past_them(isa: str, rng: np.random.Generator) -> None:
    m, n = 2103, 4112
    memory = np.zeros(m * n + 16, np.float32)
    out = memory[-memory.ctypes.data % 64 // 4 :][: m * n].reshape(m, n)  # on a line: only then is it streamed
    x = rng.normal(size=(m, 5)).astype(np.float32)
    layer = (x, fill_integers((5, n), np.int8, "random", 11), np.full(n, 1e-3, np.float32), None, NONE)
    rest = (None, None, 0, None, 0, "float32")
    run(isa, 2, out, *layer, *rest)
    assert_array_equal(out, reference.linear(*layer, *rest))


@pytest.fixture
def layer(rng: np.random.Generator) -> tuple[npt.NDArray[np.float32], _core.PackedWeights]:
    w = fill_integers((32, 20), np.int8, "random", 10)
    return rng.normal(size=(6, 32)).astype(np.float32), ek.pack_weights(w, scale=0.01)


def test_public_names_reach_the_core(layer: Any, rng: np.random.Generator) -> None:
    x, w = layer
    bias, residual = rng.normal(size=20).astype(np.float32), rng.normal(size=(6, 20)).astype(np.float32)
    y = ek.linear(x, w, bias=bias)
    assert_array_equal(ek.linear(x, w, bias=bias, activation="relu"), np.maximum(y, 0))
    assert_array_equal(ek.linear(x, w, bias=bias, activation="relu6"), np.clip(y, 0, 6))
    assert_array_equal(ek.linear(x, w, bias=bias, activation=(-1, 1)), np.clip(y, -1, 1))
    for name, function in ACTIVATIONS.items():
        got = ek.linear(x, w, bias=bias, activation=name, residual=residual)
        assert_array_equal(got, function(y) + residual)
    assert_array_equal(ek.linear(x, w, bias=bias, out_dtype=np.float16), y.astype(np.float16))
    q = ek.quantize_linear(x, 0.03, dtype=np.int8)
    z = ek.linear(q, w, x_scale=0.03, activation="gelu")
    got = ek.linear(q, w, x_scale=0.03, activation="gelu", y_scale=0.01, y_zero_point=3, out_dtype=np.int8)
    assert_array_equal(got, ek.quantize_linear(z, 0.01, 3, dtype=np.int8))


def test_swiglu_of_interleaved_columns(rng: np.random.Generator) -> None:
    x = rng.normal(size=(5, 48)).astype(np.float32)
    gate, up = (fill_integers((48, 37), np.int8, "random", seed) for seed in (1, 2))
    gate_scale, up_scale = (rng.uniform(1e-3, 1e-2, 37).astype(np.float32) for _ in range(2))
    w = ek.pack_weights(ek.interleave_gate_up(gate, up), scale=ek.interleave_gate_up(gate_scale, up_scale))
    got = ek.linear(x, w, activation="swiglu")
    gated = ek.linear(x, ek.pack_weights(gate, scale=gate_scale), activation="silu")
    assert_array_equal(got, gated * ek.linear(x, ek.pack_weights(up, scale=up_scale)))


def test_a_result_may_replace_its_residual(layer: Any, rng: np.random.Generator) -> None:
    x, w = layer
    stream = rng.normal(size=(6, 20)).astype(np.float32)
    expected = ek.linear(x, w, residual=stream)
    assert ek.linear(x, w, residual=stream, out=stream) is stream
    assert_array_equal(stream, expected)


def test_bfloat16_of_ml_dtypes(layer: Any) -> None:
    ml_dtypes = pytest.importorskip("ml_dtypes")
    x, w = layer
    y = ek.linear(x, w)
    got = ek.linear(x, w, out_dtype=ml_dtypes.bfloat16)
    assert got.dtype == ml_dtypes.bfloat16
    assert_array_equal(got.astype(np.float32), y.astype(ml_dtypes.bfloat16).astype(np.float32))
    out = np.zeros((6, 20), ml_dtypes.bfloat16)
    assert ek.linear(x, w, out_dtype=ml_dtypes.bfloat16, out=out) is out
    assert_array_equal(out.astype(np.float32), got.astype(np.float32))


A, B = np.zeros((3, 4), np.int8), np.zeros((4, 5), np.int8)
X, W = A.astype(np.float32), ek.pack_weights(B, scale=1.0)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: ek.linear(A, B), ArgumentTypeError, "w must be the result of pack_weights"),
        (lambda: ek.linear(A, W), ArgumentValueError, "x is 8-bit, so x_scale must be given"),
        (lambda: ek.linear(X, ek.pack_weights(B)), ArgumentValueError, "w has no scale"),
        (lambda: ek.linear(X[:, :3], W), ArgumentValueError, "w has 4 rows but x has 3 columns"),
        (
            lambda: ek.linear(A.astype(np.float64), W),
            ArgumentTypeError,
            "x must be float32, uint8 or int8, got float64",
        ),
        (lambda: ek.linear(X, W, bias=np.zeros(5)), ArgumentTypeError, "bias must be a float32 array"),
        (lambda: ek.linear(X, W, bias=X[0]), ArgumentValueError, r"bias must have shape \(5,\), got \(4,\)"),
        (lambda: ek.linear(X, W, activation="swish"), ArgumentValueError, "activation must be .*'gelu'.*got 'swish'"),
        (lambda: ek.linear(X, W, activation=(1, 0)), ArgumentValueError, r"lo <= hi, got \(1, 0\)"),
        (
            lambda: ek.linear(X, W, activation="swiglu"),
            ArgumentValueError,
            "swiglu pairs the columns of w, which has 5",
        ),
        (lambda: ek.linear(X, W, residual=[[0]]), ArgumentTypeError, "residual must be a float32 array"),
        (
            lambda: ek.linear(X, W, residual=np.zeros((3, 5))),
            ArgumentTypeError,
            "residual must be float32, got float64",
        ),
        (
            lambda: ek.linear(X, W, residual=X),
            ArgumentValueError,
            r"residual must have the result's shape \(3, 5\), got \(3, 4\)",
        ),
        (lambda: ek.linear(X, W, out_dtype=np.int8), ArgumentTypeError, "got int8; 8-bit results need y_scale"),
        (lambda: ek.linear(X, W, out_dtype=np.uint16), ArgumentTypeError, "float16 or bfloat16, got uint16"),
        (lambda: ek.linear(X, W, out_dtype="bf16"), ArgumentTypeError, "bfloat16 is ml_dtypes.bfloat16"),
        (
            lambda: ek.linear(A, W, x_scale=1.0, y_scale=1.0, out_dtype=np.float32),
            ArgumentTypeError,
            "uint8 or int8, got float32; leave y_scale out",
        ),
        (
            lambda: ek.linear(X, W, out_dtype=np.float16, out=np.zeros((3, 5), np.uint16)),
            ArgumentTypeError,
            "out must be float16, got uint16",
        ),
        (
            lambda: ek.linear(X, W, out=np.zeros((3, 4), np.float32)),
            ArgumentValueError,
            r"out must have shape \(3, 5\)",
        ),
        (lambda: ek.linear(X, W, y_scale=1.0), ArgumentValueError, "y_scale needs 8-bit x"),
        (lambda: ek.linear(X, W, x_scale=1.0), ArgumentValueError, "x_scale is for 8-bit x"),
        (lambda: ek.linear(A, W, x_scale=0.0), ArgumentValueError, "scales must be positive and finite"),
        (lambda: ek.linear(A, W, x_scale=1.0, y_scale=math.nan), ArgumentValueError, "scales must be positive"),
        (
            lambda: ek.linear(A, W, x_scale=1e-9, y_scale=1.0, bias=np.full(5, 9.0, np.float32)),
            ArgumentValueError,
            r"bias\[0\] is 9.000000, too large",
        ),
        (
            lambda: ek.linear(
                np.zeros((1, 40_000), np.int8), ek.pack_weights(np.zeros((40_000, 1), np.int8), scale=1.0), x_scale=1.0
            ),
            ArgumentValueError,
            "could pass 2\\^31",
        ),
        (lambda: ek.interleave_gate_up(A, X), ArgumentTypeError, "up must be int8 as gate is, got float32"),
        (lambda: ek.interleave_gate_up(A, B), ArgumentValueError, r"got \(3, 4\) and \(4, 5\)"),
        (lambda: ek.interleave_gate_up([1], A), ArgumentTypeError, "gate must be a NumPy array, got list"),
    ],
)
def test_bad_input_is_refused_by_name(call: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()


def test_overlapping_operands_are_refused() -> None:
    memory = np.zeros(64, np.float32)
    out = memory[:15].reshape(3, 5)
    with pytest.raises(ArgumentValueError, match="out overlaps x"):
        ek.linear(memory[10:22].reshape(3, 4), W, out=out)
    with pytest.raises(ArgumentValueError, match="out overlaps bias"):
        ek.linear(X, W, bias=memory[2:7], out=out)
    with pytest.raises(ArgumentValueError, match="out overlaps residual; pass the residual itself"):
        ek.linear(X, W, residual=memory[1:16].reshape(3, 5), out=out)
