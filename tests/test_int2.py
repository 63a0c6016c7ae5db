"""2-bit weights: the bits that the same values have in 4 bits and in NumPy, on every ISA; the layout; the quantizer."""

import hashlib
import pickle
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
from edgekern.llm.methods.rounding import SignedGrid
from edgekern.llm.packing import WeightFormat
from edgekern.quantization.methods.ternary import quantize_ternary
from test_int4 import NONE, Weights, run

from guarded import guarded, guarded_empty
from reference import int2 as reference
from reference import int4
from strategies import float_arrays

GROUPS = (64, 128)


def make_weights(k: int, n: int, group_size: int, seed: int, fill: str = "random") -> Weights:
    rng = np.random.default_rng(seed)
    w = rng.integers(-1, 2, (k, n), dtype=np.int8)
    if fill in ("lowest", "highest"):
        w[...] = -1 if fill == "lowest" else 1
    scale = np.exp2(rng.uniform(-12, 3, (-(-k // group_size), n))).astype(np.float32)
    return Weights(w, scale, None, group_size)


def pack(weights: Weights, **changed: Any) -> ek.PackedWeights:
    given = {"scale": weights.scale, "bits": 2, "group_size": weights.group_size, **changed}
    return ek.pack_weights(weights.w, **given)


@st.composite
def operands(draw: st.DrawFn) -> tuple[npt.NDArray[np.float32], Weights, npt.NDArray[np.float32] | None]:
    m, n, k = draw(st.integers(0, 60)), draw(st.integers(0, 140)), draw(st.integers(0, 300))
    fill = draw(st.sampled_from(["random", "lowest", "highest"]))
    weights = make_weights(k, n, draw(st.sampled_from(GROUPS)), draw(st.integers(0, 2**32 - 1)), fill)
    bias = draw(float_arrays((n,))) if draw(st.booleans()) else None
    return draw(float_arrays((m, k))), weights, bias


@given(operands=operands(), per_row=st.booleans(), curve=st.sampled_from([NONE, (0.0, 6.0), "silu"]))
def test_linear_int2_equals_numpy_bit_for_bit_on_every_isa(operands: Any, per_row: bool, curve: Any) -> None:
    x, weights, bias = operands
    packed = pack(weights)
    expected = int4.linear(x, *weights, bias, curve, None, "float32", per_row)
    for isa in _core.available_isas():
        for threads in (1, 2):
            assert_array_equal(run(isa, threads, x, packed, bias, curve, per_row=per_row), expected)


@pytest.mark.parametrize("group_size", GROUPS)
@pytest.mark.parametrize("m", [1, 2, 3, 4, 5, 7, 47, 48, 49, 100])
def test_every_row_count_is_what_four_bits_give(m: int, group_size: int, isa: str, rng: np.random.Generator) -> None:
    weights = make_weights(1000, 600, group_size, 3)
    x = rng.normal(size=(m, 1000)).astype(np.float32)
    x[0, :8] *= 1000  # -128 does not come up, but the largest codes do
    expected = run(isa, 1, x, weights.pack())
    for threads in (1, 2, 3):
        assert_array_equal(run(isa, threads, x, pack(weights)), expected)


@pytest.mark.parametrize("num_threads", [1, 2, 3])
def test_one_row_is_shared_out_by_panels(num_threads: int, isa: str, rng: np.random.Generator) -> None:
    weights = make_weights(1024, 8384, 128, 3)  # 131 panels
    x = rng.normal(size=(1, 1024)).astype(np.float32)
    assert_array_equal(run(isa, num_threads, x, pack(weights)), int4.linear(x, *weights))


@pytest.mark.parametrize("curve", [NONE, "gelu", "swiglu"])
def test_what_follows_the_product_is_as_for_eight_bits(curve: Any, isa: str, rng: np.random.Generator) -> None:
    weights = make_weights(100, 150, 64, 4)
    bias = rng.normal(size=150).astype(np.float32)
    for m, dtype in ((1, "float16"), (3, "float32"), (9, "bfloat16")):
        x = rng.normal(size=(m, 100)).astype(np.float32)
        residual = rng.normal(size=(m, 75 if curve == "swiglu" else 150)).astype(np.float32)
        expected = int4.linear(x, *weights, bias, curve, residual, dtype)
        assert_array_equal(run(isa, 2, x, pack(weights), bias, curve, residual, dtype), expected)


@pytest.mark.parametrize("side", ["end", "begin"])
@pytest.mark.parametrize("shape", [(1, 1, 1), (5, 33, 7), (6, 64, 64), (13, 130, 61), (2, 70, 129), (1, 190, 300)])
def test_linear_int2_never_touches_memory_past_an_operand(shape: tuple[int, int, int], side: Any, isa: str) -> None:
    m, n, k = shape
    weights = make_weights(k, n, 64, 5)
    x = np.random.default_rng(6).normal(size=(m, k)).astype(np.float32)
    bias = np.arange(n, dtype=np.float32)
    out = guarded_empty((m, n), np.float32, side)
    packed = pack(weights._replace(w=guarded(weights.w, side), scale=guarded(weights.scale, side)))
    got = run(isa, 2, guarded(x, side), packed, guarded(bias, side), (-5.0, 5.0), out=out)
    assert got is out
    assert_array_equal(out, int4.linear(x, *weights, bias, (-5.0, 5.0)))


def test_a_byte_holds_every_five_digits() -> None:
    for value in range(3**5):
        byte = -(-value * 256 // 3**5)
        assert sum(digit * 3 ** (4 - i) for i, digit in enumerate(reference.digits(byte))) == value


@pytest.mark.parametrize("group_size", GROUPS)
@pytest.mark.parametrize(("k", "n"), [(1, 1), (60, 16), (64, 64), (130, 70), (300, 200)])
def test_the_layout_is_what_the_header_says(k: int, n: int, group_size: int) -> None:
    weights = make_weights(k, n, group_size, 8)
    packed = np.frombuffer(_core.packed_state(pack(weights))[6], np.uint8)
    values, halves = reference.unpack(packed, n, k, group_size)
    assert_array_equal(values, weights.w)
    assert_array_equal(halves, (weights.scale / int4.unit_of(weights.scale)).astype(np.float16))


def test_layout_and_results_are_those_of_every_version() -> None:
    rng = np.random.default_rng(12)  # of integers: libm has no say in them
    x = rng.integers(-4000, 4000, (5, 300)).astype(np.float32)
    scale = rng.integers(1, 4000, (3, 130)).astype(np.float32)
    packed = pack(Weights(rng.integers(-1, 2, (300, 130), dtype=np.int8), scale, None, 128))
    state = hashlib.sha256(np.frombuffer(_core.packed_state(packed)[6], np.uint8).tobytes())
    state.update(ek.linear(x, packed).astype("<f4").tobytes())
    assert state.hexdigest()[:16] == "2df60695ee806254"


@pytest.mark.parametrize(("group_size", "bits"), [(64, 1.875), (128, 2.0)])
def test_packed_size_is_what_the_docs_say(group_size: int, bits: float) -> None:
    packed = pack(make_weights(256, 128, group_size, 8))
    assert packed.nbytes == 256 * 128 * bits / 8
    assert (packed.bits, packed.group_size, packed.has_scale, packed.shape) == (2, group_size, True, (256, 128))
    assert repr(packed) == f"PackedWeights(shape=(256, 128), nbytes={packed.nbytes}, bits=2, group_size={group_size})"


def test_pickles_keep_the_bits(rng: np.random.Generator) -> None:
    weights = make_weights(130, 70, 64, 9)
    packed, x = pack(weights), rng.normal(size=(3, 130)).astype(np.float32)
    copy = pickle.loads(pickle.dumps(packed))
    assert (copy.bits, copy.group_size, copy.nbytes) == (2, 64, packed.nbytes)
    assert_array_equal(ek.linear(x, copy), ek.linear(x, packed))
    state = list(_core.packed_state(packed))
    state[3] = 32
    with pytest.raises(ArgumentValueError, match="damaged"):
        _core.restore_packed(*state)


def test_weights_of_any_strides_are_taken_without_a_copy(rng: np.random.Generator) -> None:
    wide = rng.integers(-1, 2, (96, 80), dtype=np.int8)
    x = rng.normal(size=(3, 40)).astype(np.float32)
    for view in (wide.T[:40, ::2], wide[40 - 1 :: -1, ::-1], np.broadcast_to(wide[0], (40, 80))):
        weights = Weights(view, np.full((1, view.shape[1]), 0.25, np.float32), None, 64)
        assert_array_equal(ek.linear(x, pack(weights)), int4.linear(x, *weights))


def test_nan_and_infinities_are_as_with_four_bits(isa: str, rng: np.random.Generator) -> None:
    weights = make_weights(256, 16, 64, 10)
    for m in (1, 5):
        x = rng.normal(size=(m, 256)).astype(np.float32)
        x[0, 5], x[-1, 200], x[0, 70] = np.inf, -np.inf, np.nan
        for per_row in (False, True):
            expected = run(isa, 1, x, weights.pack(), per_row=per_row)
            assert_array_equal(run(isa, 1, x, pack(weights), per_row=per_row), expected)


@given(weights=float_arrays((3, 150)), group=st.sampled_from(GROUPS))
def test_the_quantizer_finds_the_least_error(weights: npt.NDArray[np.float32], group: int) -> None:
    weights = np.nan_to_num(weights, nan=0, posinf=1, neginf=-1).clip(-1e15, 1e15)
    codes, scale = _core.quantize_groups(weights, group, 2, 2)
    for row in range(3):
        for g in range(scale.shape[1]):
            part = slice(g * group, (g + 1) * group)
            values = weights[row, part].astype(np.float64)
            _, _, least = reference.ternary(weights[row, part])
            error = np.square(values - codes[row, part] * np.float64(scale[row, g])).sum()
            assert error <= least + 1e-6 * np.square(values).sum()
            assert scale[row, g] > 0


@pytest.mark.parametrize("group", GROUPS)
def test_weights_that_are_ternary_stay_what_they_are(group: int, rng: np.random.Generator) -> None:
    trained = rng.integers(-1, 2, (20, 200), dtype=np.int8)
    codes, scale = _core.quantize_groups(trained * np.float32(0.0123), group, 1, 2)
    assert_array_equal(codes, trained)
    np.testing.assert_allclose(scale, 0.0123, rtol=1e-6)


def test_the_quantizer_of_numpy_is_that_of_the_core(rng: np.random.Generator) -> None:
    weights = rng.standard_t(4, (40, 200)).astype(np.float32)
    weights[3] = 0
    codes, scale = quantize_ternary(weights, 64)
    core_codes, core_scale = _core.quantize_groups(weights, 64, 1, 2)
    assert_array_equal(codes, core_codes)
    assert_array_equal(scale, core_scale)


def test_a_grid_rounds_to_what_it_has_fitted(rng: np.random.Generator) -> None:
    weights = rng.normal(size=(30, 150)).astype(np.float32)
    grid, codes = SignedGrid(weights, WeightFormat("int2", 64), np.ones(150)), np.empty((30, 150), np.int8)
    stands_for = np.empty((30, 150), np.float32)
    for at in range(150):
        if at % 64 == 0:
            grid.fit(at, weights.T[at : at + 64])
        codes[:, at], stands_for[:, at] = grid.round(at, weights.T[at])
    found = grid.rounded(codes)
    assert_array_equal(found.restored(), stands_for)
    expected, scale = quantize_ternary(weights, 64)
    np.testing.assert_allclose(found.scale, scale, rtol=0.01)  # float16, and fitted to the codes of the grid
    # Rounding is to the nearest: the best codes of a scale that is their mean.
    assert np.mean(codes == expected) > 0.99


W, S = np.zeros((80, 6), np.int8), np.ones((2, 6), np.float32)


def changed(array: npt.NDArray[Any], value: float) -> npt.NDArray[Any]:
    copy = array.copy()
    copy[1, 2] = value
    return copy


def call(w: Any = W, **given: Any) -> Any:
    return ek.pack_weights(w, **{"scale": S, "bits": 2, "group_size": 64, **given})


@pytest.mark.parametrize(
    ("refused", "error", "message"),
    [
        (lambda: call(changed(W, 2)), ArgumentValueError, r"w must be -1, 0 or 1 for bits=2, got 2 at \[1, 2\]$"),
        (lambda: call(changed(W, -2)), ArgumentValueError, r"got -2 at \[1, 2\]"),
        (lambda: call(W.astype(np.uint8)), ArgumentTypeError, "w must be int8 of -1, 0 and 1 for bits=2, got uint8"),
        (lambda: call(group_size=32), ArgumentValueError, "group_size must be 64 or 128 with bits=2, got 32"),
        (lambda: _core.pack_weights_int2(W, S, 32), ArgumentValueError, "group_size must be 64 or 128, got 32"),
        (lambda: call(group_size=None), ArgumentValueError, "bits=2 needs group_size"),
        (lambda: call(scale=None), ArgumentValueError, "bits=2 needs scale"),
        (lambda: call(bits=3), ArgumentValueError, "bits must be 8, 4 or 2, got 3"),
        (lambda: call(zero_point=S), ArgumentValueError, "zero_point is for bits=4; 2-bit weights are symmetric"),
        (
            lambda: call(scale=S[:1]),
            ArgumentValueError,
            r"must have shape \(2, 6\), a row for every 64 rows of w",
        ),
        (lambda: call(scale=changed(S, 0)), ArgumentValueError, "positive and finite, got 0.0"),
        (
            lambda: ek.linear(np.zeros((3, 80), np.int8), call()),
            ArgumentTypeError,
            "x must be float32 for 2-bit weights, got int8",
        ),
        (
            lambda: ek.matmul_integer(np.zeros((3, 80), np.int8), call()),
            ArgumentValueError,
            "b has 2-bit weights, whose groups have scales of their own",
        ),
        (lambda: _core.pack_groups(W + np.int8(2), S, 64, 2), ArgumentValueError, "pack_groups"),
    ],
)
def test_refusals_say_what_fits(refused: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        refused()
