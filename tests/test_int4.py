"""4-bit weights: the same bits as NumPy on every ISA, the upstream recipe, and typed refusals."""

from typing import Any, NamedTuple

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
from reference import int4 as reference
from strategies import float_arrays

GROUPS = (32, 64, 128)
NONE = (-np.inf, np.inf)


class Weights(NamedTuple):
    w: npt.NDArray[np.int8]
    scale: npt.NDArray[np.float32]
    zero_point: npt.NDArray[np.float32] | None
    group_size: int

    def pack(self) -> ek.PackedWeights:
        return ek.pack_weights(
            self.w,
            scale=self.scale,
            zero_point=self.zero_point,
            bits=4,
            group_size=self.group_size,  # type: ignore[arg-type]
        )


def make_weights(k: int, n: int, group_size: int, asymmetric: bool, seed: int, fill: str = "random") -> Weights:
    rng = np.random.default_rng(seed)
    groups = -(-k // group_size)
    w = rng.integers(-8, 8, (k, n), dtype=np.int8)
    if fill in ("lowest", "highest"):
        w[...] = -8 if fill == "lowest" else 7
    scale = np.exp2(rng.uniform(-12, 3, (groups, n))).astype(np.float32)
    zero_point = (rng.integers(-32, 33, (groups, n)) / 4).astype(np.float32) if asymmetric else None
    return Weights(w, scale, zero_point, group_size)


def run(
    isa: str,
    threads: int,
    x: npt.NDArray[np.float32],
    packed: ek.PackedWeights,
    bias: npt.NDArray[np.float32] | None = None,
    curve: Any = NONE,
    residual: npt.NDArray[np.float32] | None = None,
    dtype: str = "float32",
    per_row: bool = False,
    out: npt.NDArray[Any] | None = None,
) -> npt.NDArray[Any]:
    """``_core.linear`` with the arguments of the reference."""
    name, lo, hi = (curve, 0.0, 0.0) if isinstance(curve, str) else ("clamp", *curve)
    return _core.linear(x, packed, bias, name, lo, hi, residual, None, 0, None, 0, dtype, out, isa, threads, per_row)


@st.composite
def operands(draw: st.DrawFn) -> tuple[npt.NDArray[np.float32], Weights, npt.NDArray[np.float32] | None]:
    m, n, k = draw(st.integers(0, 40)), draw(st.integers(0, 140)), draw(st.integers(0, 300))
    fill = draw(st.sampled_from(["random", "lowest", "highest"]))
    weights = make_weights(
        k, n, draw(st.sampled_from(GROUPS)), draw(st.booleans()), draw(st.integers(0, 2**32 - 1)), fill
    )
    bias = draw(float_arrays((n,))) if draw(st.booleans()) else None
    return draw(float_arrays((m, k))), weights, bias


@given(operands=operands(), per_row=st.booleans(), curve=st.sampled_from([NONE, (0.0, 6.0), "silu"]))
def test_linear_int4_equals_numpy_bit_for_bit_on_every_isa(operands: Any, per_row: bool, curve: Any) -> None:
    x, weights, bias = operands
    packed = weights.pack()
    expected = reference.linear(x, *weights, bias, curve, None, "float32", per_row)
    for isa in _core.available_isas():
        for threads in (1, 2):
            assert_array_equal(run(isa, threads, x, packed, bias, curve, per_row=per_row), expected)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("curve", [NONE, "gelu", "gelu_tanh", "silu", "swiglu"])
def test_what_follows_the_product_is_as_for_eight_bits(
    curve: Any, dtype: str, isa: str, rng: np.random.Generator
) -> None:
    weights = make_weights(100, 150, 64, True, 4)
    weights = weights._replace(scale=weights.scale / 8)
    bias = rng.normal(size=150).astype(np.float32)
    for m in (1, 3, 9):
        x = rng.normal(size=(m, 100)).astype(np.float32)
        residual = rng.normal(size=(m, 75 if curve == "swiglu" else 150)).astype(np.float32)
        expected = reference.linear(x, *weights, bias, curve, residual, dtype)
        assert_array_equal(run(isa, 2, x, weights.pack(), bias, curve, residual, dtype), expected)


@pytest.mark.parametrize("m", [1, 2, 3, 5, 8, 17])
def test_every_row_count_and_many_panels_are_the_same_bits(m: int, isa: str, rng: np.random.Generator) -> None:
    weights = make_weights(1000, 1000, 32, True, 3)
    x = rng.normal(size=(m, 1000)).astype(np.float32)
    expected = reference.linear(x, *weights)
    for threads in (1, 2, 3):
        got = run(isa, threads, x, weights.pack())
        assert_array_equal(got, expected)


@pytest.mark.parametrize("num_threads", [1, 2, 3])
def test_one_row_is_shared_out_by_panels(num_threads: int, isa: str, rng: np.random.Generator) -> None:
    weights = make_weights(512, 4160, 32, True, 3)  # 65 panels, and more work than one thread keeps to itself
    x = rng.normal(size=(1, 512)).astype(np.float32)
    assert_array_equal(run(isa, num_threads, x, weights.pack()), reference.linear(x, *weights))


@pytest.mark.parametrize("side", ["end", "begin"])
@pytest.mark.parametrize("shape", [(1, 1, 1), (5, 33, 7), (6, 64, 64), (13, 130, 61), (2, 70, 129)])
def test_linear_int4_never_touches_memory_past_an_operand(shape: tuple[int, int, int], side: Any, isa: str) -> None:
    m, n, k = shape
    weights = make_weights(k, n, 32, True, 5)
    x = np.random.default_rng(6).normal(size=(m, k)).astype(np.float32)
    bias = np.arange(n, dtype=np.float32)
    out = guarded_empty((m, n), np.float32, side)
    packed = weights._replace(
        w=guarded(weights.w, side), scale=guarded(weights.scale, side), zero_point=guarded(weights.zero_point, side)
    ).pack()
    got = run(isa, 2, guarded(x, side), packed, guarded(bias, side), (-5.0, 5.0), out=out)
    assert got is out
    assert_array_equal(out, reference.linear(x, *weights, bias, (-5.0, 5.0)))


def test_linear_takes_four_bit_weights_like_eight_bit_ones(rng: np.random.Generator) -> None:
    weights = make_weights(70, 40, 64, False, 7)
    packed = weights.pack()
    x, bias = rng.normal(size=(9, 140)).astype(np.float32)[::2, 30:100], rng.normal(size=40).astype(np.float32)
    out = np.empty((5, 40), np.float32)
    assert ek.linear(x, packed, bias=bias, activation="relu", out=out) is out
    assert_array_equal(out, reference.linear(x, *weights, bias, (0.0, np.inf)))
    row = ek.linear(x, packed, x_quantization="row")
    assert_array_equal(row, reference.linear(x, *weights, per_row=True))
    assert packed.shape == (70, 40)
    assert (packed.bits, packed.group_size, packed.has_scale) == (4, 64, True)
    assert repr(packed) == f"PackedWeights(shape=(70, 40), nbytes={packed.nbytes}, bits=4, group_size=64)"
    assert ek.pack_weights(weights.w).bits == 8
    assert ek.pack_weights(weights.w).group_size is None


@pytest.mark.parametrize(("group_size", "bits"), [(32, 4.5), (64, 4.25), (128, 4.125)])
def test_packed_size_is_what_the_docs_say(group_size: int, bits: float) -> None:
    assert make_weights(256, 128, group_size, False, 8).pack().nbytes == 256 * 128 * bits / 8


def test_weights_of_any_strides_are_taken_without_a_copy(rng: np.random.Generator) -> None:
    wide = rng.integers(-8, 8, (96, 80), dtype=np.int8)
    x = rng.normal(size=(3, 40)).astype(np.float32)
    for view in (wide.T[:40, ::2], wide[:40], wide[40 - 1 :: -1, ::-1], np.broadcast_to(wide[0], (40, 80))):
        weights = Weights(view, np.full((2, view.shape[1]), 0.25, np.float32), None, 32)
        assert_array_equal(ek.linear(x, weights.pack()), reference.linear(x, *weights))


@pytest.mark.parametrize("magnitude", [1e-30, 1e-9, 1.0, 1e9, 1e34])
def test_scales_of_any_size_keep_eleven_bits(magnitude: float, rng: np.random.Generator) -> None:
    weights = make_weights(64, 20, 32, False, 9)
    scale = (rng.uniform(0.01, 1.0, (2, 20)) * magnitude).astype(np.float32)
    weights = weights._replace(scale=scale)
    x = np.eye(64, dtype=np.float32) * np.float32(127)
    got = ek.linear(x, weights.pack())
    exact = weights.w.astype(np.float64) * np.repeat(scale.astype(np.float64), 32, axis=0) * 127
    assert np.all(np.abs(got - exact) <= np.abs(exact) * 2.0**-11 * 1.001)
    assert_array_equal(got, reference.linear(x, *weights))


def test_nan_in_x_is_minus_128_and_zeros_have_scale_one(isa: str) -> None:
    weights = make_weights(32, 16, 32, False, 10)
    x = np.zeros((3, 32), np.float32)
    x[1, 5], x[2, 3] = np.nan, 1e-45
    got = run(isa, 1, x, weights.pack())
    assert_array_equal(got[[0, 2]], np.zeros((2, 16), np.float32))
    assert_array_equal(got[1], weights.w[5] * np.float32(-128) * reference.stored_scale(weights.scale)[0])


@pytest.mark.parametrize("per_row", [False, True])
def test_infinities_keep_their_sign(per_row: bool, isa: str, rng: np.random.Generator) -> None:
    """They became -128 of either sign."""
    weights = make_weights(256, 16, 32, False, 11)
    x = rng.normal(size=(3, 256)).astype(np.float32)
    x[0, 5], x[1, 200], x[2, 7], x[2, 8] = np.inf, -np.inf, np.inf, np.nan
    got = run(isa, 1, x, weights.pack(), per_row=per_row)
    assert_array_equal(got, reference.linear(x, *weights, per_row=per_row))
    at = weights.w[5] != 0
    if per_row:  # the second 128 values have that scale, too, and a sum of 0
        assert np.isnan(got).all()
    else:
        assert_array_equal(np.sign(got[0][at]), np.sign(weights.w[5][at]))


def unpack_nibbles(packed: npt.NDArray[np.uint8]) -> npt.NDArray[np.int8]:
    """Two values a byte along the last axis, low nibble first: the recipe of docs/int4.md."""
    both = np.stack([packed << 4, packed & 0xF0], axis=-1).view(np.int8) >> 4
    return both.reshape(*packed.shape[:-1], -1)


def test_unpack_nibbles_reads_the_low_nibble_first() -> None:
    assert_array_equal(unpack_nibbles(np.array([[0x71, 0x8F]], np.uint8)), [[1, 7, -1, -8]])


@pytest.mark.parametrize("m", [1, 16, 32, 48, 64])
def test_upstream_recipe_is_reproduced(m: int, isa: str, rng: np.random.Generator) -> None:
    """C = A @ ((B + offset) * scale): A, scale and offset float16, B int4 two a byte, groups of 32 along K."""
    k, n = 1280, 384
    a = rng.normal(size=(m, k)).astype(np.float16).astype(np.float32)
    stored = rng.integers(0, 256, (k, n // 2), dtype=np.uint8)
    scale = rng.uniform(0.001, 0.02, (k // 32, n)).astype(np.float16)
    offset = rng.normal(0, 2, (k // 32, n)).astype(np.float16)

    b = unpack_nibbles(stored)
    packed = ek.pack_weights(b, scale=scale, zero_point=-offset, bits=4, group_size=32)
    got = run(isa, 2, a, packed)

    real = (b + np.repeat(offset.astype(np.float64), 32, axis=0)) * np.repeat(scale.astype(np.float64), 32, axis=0)
    exact = a.astype(np.float64) @ real
    # A's rounding: at most half a step of max|a| / 127 in every 128 values; the float32 sums add their own 2**-22.
    half_step = np.abs(a.astype(np.float64)).reshape(m, k // 128, 128).max(axis=2) / 254
    bound = half_step @ np.abs(real).reshape(k // 128, 128, n).sum(axis=1)
    assert np.all(np.abs(got - exact) <= bound + 2.0**-22 * (np.abs(a) @ np.abs(real)) * (k // 32))
    assert np.linalg.norm(got - exact) <= 0.01 * np.linalg.norm(exact)


W, S = np.zeros((40, 6), np.int8), np.ones((2, 6), np.float32)
X, P = np.zeros((3, 40), np.float32), ek.pack_weights(W, scale=S, bits=4, group_size=32)
EIGHT = ek.pack_weights(W, scale=1.0)


def pack(w: Any = W, **changed: Any) -> Any:
    return ek.pack_weights(w, **{"scale": S, "bits": 4, "group_size": 32, **changed})


def changed(array: npt.NDArray[Any], value: float) -> npt.NDArray[Any]:
    copy = array.copy()
    copy[1, 2] = value
    return copy


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: pack(changed(W, 8)), ArgumentValueError, r"w must lie in \[-8, 7\] for bits=4, got 8 at \[1, 2\]"),
        (lambda: pack(changed(W, -9)), ArgumentValueError, r"got -9 at \[1, 2\]; subtract 8 from unsigned values"),
        (lambda: pack(W.astype(np.uint8)), ArgumentTypeError, "w must be int8 with values in .* got uint8"),
        (lambda: pack(W[0]), ArgumentValueError, r"w must have 2 axes, got shape \(6,\)"),
        (lambda: pack([[1]]), ArgumentTypeError, "w must be a NumPy array, got list"),
        (lambda: pack(bits=3), ArgumentValueError, "bits must be 8, 4 or 2, got 3"),
        (lambda: pack(group_size=48), ArgumentValueError, "group_size must be 32, 64 or 128, got 48"),
        (lambda: pack(group_size="32"), ArgumentValueError, "group_size must be 32, 64 or 128, got '32'"),
        (lambda: pack(group_size=None), ArgumentValueError, "bits=4 needs group_size"),
        (lambda: pack(scale=None), ArgumentValueError, "bits=4 needs scale"),
        (lambda: pack(bits=8), ArgumentValueError, "group_size is for bits=4"),
        (lambda: pack(bits=8, group_size=None, zero_point=S), ArgumentValueError, "zero_point is for bits=4"),
        (
            lambda: pack(scale=S[:1]),
            ArgumentValueError,
            r"scale must have shape \(2, 6\), a row for every 32 rows of w",
        ),
        (lambda: pack(scale=1.0), ArgumentValueError, r"scale must have shape \(2, 6\), .* got \(\)"),
        (lambda: pack(scale="x"), ArgumentTypeError, "scale must be an array of numbers"),
        (lambda: pack(zero_point=S.T), ArgumentValueError, r"zero_point must have shape \(2, 6\), .* got \(6, 2\)"),
        (
            lambda: pack(zero_point=changed(S, np.nan)),
            ArgumentValueError,
            r"zero_point must lie in .* got nan at \[1, 2",
        ),
        (lambda: pack(zero_point=changed(S, 4096)), ArgumentValueError, r"zero_point must lie in \[-2048, 2048\]"),
        (lambda: pack(scale=changed(S, np.inf)), ArgumentValueError, r"positive and finite, got inf at \[1, 2\]"),
        (lambda: pack(scale=changed(S, np.nan)), ArgumentValueError, "positive and finite, got -?nan"),
        (lambda: pack(scale=changed(S, 0)), ArgumentValueError, "positive and finite, got 0.0"),
        (lambda: ek.linear(X[:, :39], P), ArgumentValueError, "w has 40 rows but x has 39 columns; inner dimensions"),
        (lambda: ek.linear(X.astype(np.int8), P), ArgumentTypeError, "x must be float32 for 4-bit weights, got int8"),
        (lambda: ek.linear(X.T, P), ArgumentValueError, "x must have contiguous rows"),
        (lambda: ek.linear(X, P, x_scale=1.0), ArgumentValueError, "x_scale is for 8-bit x"),
        (lambda: ek.linear(X, P, y_scale=1.0), ArgumentValueError, "y_scale needs 8-bit x"),
        (
            lambda: ek.linear(X, P, x_quantization="column"),
            ArgumentValueError,
            "must be 'row' or 'group', got 'column'",
        ),  # type: ignore[arg-type]
        (
            lambda: ek.linear(X, EIGHT, x_quantization="group"),
            ArgumentValueError,
            "'group' needs weights of 4 or 2 bits",
        ),
        (lambda: ek.linear(X, P, bias=S[0, :5]), ArgumentValueError, r"bias must have shape \(6,\), got \(5,\)"),
        (lambda: ek.linear(X, P, bias=[0.0]), ArgumentTypeError, "bias must be a float32 array"),  # type: ignore[arg-type]
        (
            lambda: ek.linear(X, P, out=np.empty((6, 3), np.float32)),
            ArgumentValueError,
            r"out must have shape \(3, 6\)",
        ),
        (lambda: ek.linear(X, P, out=np.empty((3, 6))), ArgumentTypeError, "out must be float32, got float64"),
        (lambda: ek.linear(X, P, out=X.reshape(-1)[:18].reshape(3, 6)), ArgumentValueError, "out overlaps x"),
        (lambda: ek.matmul_integer(X.astype(np.int8), P), ArgumentValueError, "b has 4-bit weights, .* use linear"),
        (
            lambda: _core.matmul_integer(X.astype(np.int8), P, 0, 0, None, "", 1),
            ArgumentValueError,
            "b has 4-bit weights",
        ),
    ],
)
def test_what_does_not_fit_is_refused_by_name(call: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()
