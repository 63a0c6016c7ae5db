"""Thresholds and ranges, taken of histograms."""

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose

from bench.distributions import FEW_VALUED, few_valued
from edgekern import _core
from edgekern.calibration import Histogram, Method
from edgekern.errors import ArgumentTypeError, ArgumentValueError, CalibrationError

from distributions import NAMES, SPACED_NAMES, drawn, levels_of, spaced
from reference import calibration as reference

METHODS: tuple[Method, ...] = ("max", "percentile", "mse", "p-norm", "entropy", "entropy-two-sided")


# --- entropy


@pytest.mark.parametrize("name", NAMES)
def test_entropy_search_equals_the_definition(name: str) -> None:
    x = drawn(name)
    h, num_levels = Histogram().update(x), levels_of(x)
    counts, edges = h.histogram(2048)
    kept, divergence = _core.entropy_search(counts, num_levels)
    expected_kept, expected = reference.entropy_search(counts, num_levels)
    assert kept == expected_kept
    assert_allclose(divergence, expected, rtol=0, atol=1e-12)
    assert h.threshold("entropy", num_bins=2048) == reference.entropy_threshold(counts, edges[-1], num_levels)


@given(data=st.data())
def test_entropy_search_equals_the_definition_on_any_counts(data: st.DataObject) -> None:
    num_levels = data.draw(st.integers(1, 9))
    count = st.sampled_from([0, 0, 0, 1, 2, 3, 10, 255, 10**6, 2**40])
    counts = np.array(data.draw(st.lists(count, min_size=num_levels, max_size=70)), np.uint64)
    kept, divergence = _core.entropy_search(counts, num_levels)
    if counts.sum() == 0:
        assert (kept, divergence) == (counts.size, 0.0)
        return
    divergences = reference.entropy_divergences(counts, num_levels)
    assert_allclose(divergence, divergences[kept - num_levels], rtol=0, atol=1e-12)
    # A divergence right at the tie's edge may fall on either side of it.
    assert divergences[kept - num_levels] <= divergences.min() + reference.TIE + 1e-12
    assert np.all(divergences[kept - num_levels + 1 :] > divergences.min() + reference.TIE - 1e-12)


@pytest.mark.parametrize("name", FEW_VALUED)
def test_entropy_keeps_few_values_apart(name: str) -> None:
    """Kept alone, one value's bin is all of P and of Q: the divergence was 0, and 1 to 8 got the range (0, 1.006)."""
    x = few_valued(name)
    h = Histogram().update(x)
    lo, hi = h.range("entropy")
    assert np.mean((x < lo) | (x > hi)) <= 0.05
    power = float(np.mean(x.astype(np.float64) ** 2))
    assert h.quantization_error(lo, hi) <= power * 10**-3.5  # 35 dB; it was -0.3 for the three values


@given(st.lists(st.sampled_from([0.0, 0.1, 0.25, 0.26, 0.3, 1.0, 7.0, 8.0, 100.0]), min_size=1, max_size=40))
def test_entropy_clips_no_more_than_a_tail(values: list[float]) -> None:
    x = np.array(values, np.float32)
    lo, hi = Histogram().update(x).range("entropy")
    assert np.count_nonzero(x[x != 0] > hi) <= np.count_nonzero(x) / reference.MOST_CLIPPED
    assert lo == 0


def test_entropy_search_equals_the_definition_with_bins_chosen_from_the_data() -> None:
    x = drawn("one_outlier")
    h = Histogram().update(x)
    num_bins = 128 * int(np.ceil(2 * h.absmax / h.quantile(0.999, magnitude=True)))
    assert 16384 < num_bins < 32768
    counts, _ = h.histogram(num_bins)
    expected = reference.entropy_threshold(counts, h.absmax, 128)
    assert h.threshold("entropy") == expected
    assert expected < 6  # 2048 bins cannot go below 287.2 / 16
    assert h.threshold("entropy", num_bins=2048) >= 287.2 / 16


@pytest.mark.parametrize(
    "name",
    SPACED_NAMES,
)
def test_entropy_threshold_is_within_5_percent_of_the_raw_datas(name: str) -> None:
    x = spaced(name)
    h, num_levels = Histogram().update(x), levels_of(x)
    magnitudes = np.abs(x.astype(np.float64))
    raw, _ = np.histogram(magnitudes, bins=2048, range=(0, magnitudes.max()))
    kept, _ = _core.entropy_search(raw.astype(np.uint64), num_levels)  # equal to the definition: tests above
    assert_allclose(h.threshold("entropy", num_bins=2048), min(h.absmax, (kept + 0.5) * h.absmax / 2048), rtol=0.05)


@pytest.mark.parametrize("name", ["one_outlier", "lognormal", "pareto"])
def test_so_it_is_with_bins_chosen_from_the_data(name: str) -> None:
    x = spaced(name)
    h, num_levels = Histogram().update(x), levels_of(x)
    magnitudes = np.abs(x.astype(np.float64))
    num_bins = num_levels * int(np.ceil(2 * magnitudes.max() / np.quantile(magnitudes, 0.999)))
    raw, _ = np.histogram(magnitudes, bins=num_bins, range=(0, magnitudes.max()))
    kept, _ = _core.entropy_search(raw.astype(np.uint64), num_levels)
    assert num_bins > 2048
    assert_allclose(h.threshold("entropy"), (kept + 0.5) * h.absmax / num_bins, rtol=0.05)


def test_ranges_leave_the_zeros_of_a_relu_out_of_the_entropy_search() -> None:
    h = Histogram().update(drawn("relu"))
    without = Histogram().update(drawn("half_normal"))
    assert h.threshold("entropy") < 0.6 * without.threshold("entropy")  # the definition, zeros and all
    assert_allclose(h.range("entropy")[1], without.range("entropy")[1], rtol=0.1)


# --- two ends, and the value itself


@pytest.mark.parametrize("seed", range(6))
def test_entropy_of_a_window_equals_the_definition(seed: int) -> None:
    rng = np.random.default_rng(seed)
    counts = rng.integers(0, 40, 40).astype(np.uint64) * (rng.random(40) < 0.7)
    for first, last, num_levels in itertools.product((0, 3, 9), (40, 33, 22), (4, 7)):
        expected = reference.entropy_of_window(counts, first, last, num_levels)
        assert_allclose(_core.entropy_of(counts, first, last, num_levels), expected, atol=1e-12)


@pytest.mark.parametrize("seed", range(6))
def test_no_move_of_one_end_improves_a_window(seed: int) -> None:
    rng = np.random.default_rng(seed)
    tails = np.exp(-np.abs(np.arange(48) - 20) / rng.uniform(2, 9, 48))
    counts, zero, num_levels = (1000 * tails).astype(np.uint64), 17, 6
    first, last, found = _core.entropy_window(counts, zero, num_levels)
    assert first <= zero < last
    assert_allclose(found, reference.entropy_of_window(counts, first, last, num_levels), atol=1e-12)
    ends = [(first, other) for other in range(max(first + num_levels, zero + 1), 49)]
    ends += [(other, last) for other in range(min(zero, last - num_levels) + 1)]
    clipped = {(a, b): counts[:a].sum() + counts[b:].sum() for a, b in ends}
    allowed = [end for end in ends if clipped[end] * reference.MOST_CLIPPED <= counts.sum()]
    best = min(reference.entropy_of_window(counts, a, b, num_levels) for a, b in allowed)
    assert found <= best + 2 * reference.TIE


def test_two_ends_are_cut_where_each_tail_is(rng: np.random.Generator) -> None:
    """A long tail above, none below: one threshold on |x| cannot tell them apart."""
    x = np.concatenate([-rng.random(100_000), rng.exponential(0.3, 100_000)]).astype(np.float32)
    h = Histogram().update(x)
    lo, hi = h.range("entropy-two-sided")
    assert lo < -0.95
    assert hi < 0.9 * h.max
    mirrored = Histogram().update(-x).range("entropy-two-sided")
    assert_allclose(mirrored, (-hi, -lo), rtol=0.1)


@pytest.mark.parametrize("name", ["normal", "relu", "student_t3", "one_outlier"])
def test_kl_is_least_where_the_search_says_so(name: str) -> None:
    x = drawn(name)
    h = Histogram().update(x)
    t = h.threshold("entropy", skip_zeros=True)
    assert h.kl(t) <= min(h.kl(factor * t) for factor in (0.5, 0.8, 1.25, 2.0))
    assert h.kl(h.range("entropy-two-sided")) <= h.kl((min(h.min, 0.0), h.max)) + reference.TIE


def test_kl_of_odd_limits() -> None:
    h = Histogram().update(drawn("one_outlier"))
    assert h.kl(4.1, num_bins=2048) == np.inf  # 2048 bins express nothing below 287.2 / 16
    assert 0 < h.kl(3.0) < 1
    assert Histogram().update(np.zeros(3, np.float32)).kl(0.0) == 0.0
    for limits in (-1.0, np.nan, np.inf):
        with pytest.raises(ArgumentValueError, match=r"^Histogram\.kl: limits must be a finite threshold"):
            h.kl(limits)
    with pytest.raises(ArgumentValueError, match=r"^Histogram\.kl: lo and hi must be finite with lo <= 0 <= hi"):
        h.kl((1.0, 2.0))


# --- quantization error


@pytest.mark.parametrize("exponent", [2.0, 2.4])
# Subnormals are known to 2^-133 only, and a spread key is no model of a single value.
@pytest.mark.parametrize("name", [n for n in NAMES if n not in ("constant", "two_values", "subnormal")])
def test_error_from_keys_is_near_the_datas(name: str, exponent: float) -> None:
    x = drawn(name)
    h = Histogram().update(x)
    unit = np.float64(h.absmax)  # the reference, in units of absmax, neither overflows nor vanishes
    for fraction in (1.0, 0.7, 0.2):
        lo, hi = fraction * min(h.min, 0.0), fraction * max(h.max, 0.0)
        exact = reference.range_error(x / unit, lo / unit, hi / unit, 256, exponent)
        assert_allclose(h.quantization_error(lo, hi, exponent=exponent) / unit**exponent, exact, rtol=0.02)


@pytest.mark.parametrize("exponent", [2.0, 2.4])
@pytest.mark.parametrize("name", [n for n in NAMES if n not in ("constant", "two_values", "subnormal", "huge")])
def test_mse_range_is_as_good_as_a_full_search(name: str, exponent: float) -> None:
    x = drawn(name)[-20_000:]  # the outlier is the last one
    lo, hi = Histogram().update(x).range("mse", exponent=exponent)
    least, most = min(float(x.min()), 0.0), max(float(x.max()), 0.0)
    assert least <= lo <= 0 <= hi <= most
    factors = np.exp2(-np.arange(0, 7, 0.5))
    ends = itertools.product(factors * least if least < 0 else [0.0], factors * most if most > 0 else [0.0])
    best = min(reference.range_error(x, a, b, 256, exponent) for a, b in ends)
    assert reference.range_error(x, lo, hi, 256, exponent) <= 1.03 * best


@pytest.mark.parametrize("name", ["normal", "relu", "student_t3", "one_outlier"])
def test_mse_threshold_is_as_good_as_a_full_search(name: str) -> None:
    x = drawn(name)
    h, num_levels = Histogram().update(x), levels_of(x)
    first = -num_levels if x.min() < 0 else 0

    def error(t: float) -> float:
        return reference.quantization_error(x, t / (num_levels - 1), first, num_levels - 1)

    best = min(error(h.absmax * f) for f in np.exp2(-np.arange(0, 7, 0.1)))
    assert error(h.threshold("mse")) <= 1.01 * best


def test_one_outlier_holds_mse_up_and_not_entropy() -> None:
    h = Histogram().update(drawn("one_outlier"))
    assert h.threshold("entropy") < 6 < 100 < h.threshold("mse") < 287


# --- ranges


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", NAMES)
def test_every_range_is_usable(name: str, method: Method, symmetric: bool) -> None:
    x = drawn(name)
    lo, hi = Histogram().update(x).range(method, symmetric=symmetric)
    assert np.isfinite([lo, hi]).all()
    assert lo <= 0 <= hi
    assert hi > lo
    assert max(-lo, hi) <= np.abs(x).max()
    assert not symmetric or lo == -hi


@pytest.mark.parametrize("method", METHODS)
def test_degenerate_tensors(method: Method) -> None:
    def range_of(*values: float) -> tuple[float, float]:
        return Histogram().update(np.array(values, np.float32)).range(method)

    assert range_of(0.0, -0.0, 0.0) == (0.0, 0.0)
    assert range_of(2.5) == (0.0, 2.5)
    assert range_of(-2.5, -2.5) == (-2.5, 0.0)
    assert range_of(1e-45) == (0.0, float(np.float32(1e-45)))
    assert Histogram().update(np.zeros(3, np.float32)).threshold(method) == 0.0


def test_percentile_cuts_each_side_or_the_only_one(rng: np.random.Generator) -> None:
    x = rng.normal(size=100_000).astype(np.float32)
    lo, hi = Histogram().update(x).range("percentile", percentile=99)
    assert_allclose([lo, hi], np.quantile(x, [0.005, 0.995]), rtol=1 / 64)
    assert_allclose(Histogram().update(x).fraction_outside(lo, hi), 0.01, rtol=1e-9)
    lo, hi = Histogram().update(np.abs(x)).range("percentile", percentile=99)
    assert lo == 0
    assert_allclose(hi, np.quantile(np.abs(x), 0.99), rtol=1 / 64)
    assert Histogram().update(x).range("percentile", percentile=100) == (x.min(), x.max())


def test_a_percentile_that_falls_on_zero_gives_the_full_range() -> None:
    x = np.zeros(100_000, np.float32)
    x[:3] = [5.0, -1.0, 2.0]
    h = Histogram().update(x)
    assert h.range("percentile") == (-1.0, 5.0)
    assert h.threshold("percentile") == 5.0


def test_fraction_outside(rng: np.random.Generator) -> None:
    h = Histogram().update(np.array([0.0, 1.0, 2.0, 3.0], np.float32))
    assert h.fraction_outside(0.0, 3.0) == 0.0
    assert h.fraction_outside(0.0, 0.5) == 0.75


def test_range_grows_from_the_smallest_to_the_largest_values() -> None:
    h = Histogram()
    for exponent in range(-3, 4):
        h.update(np.full(10, 10.0**exponent, np.float32)).update(np.full(10, -(10.0 ** (exponent - 1)), np.float32))
    assert h.range("max") == (-100.0, 1000.0)
    assert h.count == 140


@pytest.mark.parametrize("method", METHODS)
def test_an_empty_histogram_has_no_range(method: Method) -> None:
    h = Histogram().update(np.array([np.nan, np.inf], np.float32))
    for ask in (h.threshold, h.range):
        with pytest.raises(CalibrationError, match=r"no finite value was counted \(1 NaN, 1 infinite\)"):
            ask(method)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "kl"}, "method must be one of 'max', .*'entropy-two-sided', got 'kl'"),
        ({"method": "percentile", "percentile": 0}, r"percentile must lie in \(0, 100\], got 0"),
        ({"method": "mse", "exponent": 0.5}, r"exponent must lie in \[1, 8\], got 0.5"),
        ({"method": "entropy", "num_bins": 100}, r"num_bins must be \"auto\" or an integer in \[128, .*got 100"),
        ({"method": "max", "num_bits": 9}, r"num_bits must be an integer in \[2, 8\], got 9"),
    ],
)
def test_a_bad_option_is_named(options: dict[str, Any], message: str) -> None:
    h = Histogram().update(np.array([-1.0, 1.0], np.float32))
    with pytest.raises(ArgumentValueError, match=r"^Histogram\.range: " + message):
        h.range(**options)


def test_other_bad_arguments_are_named() -> None:
    h = Histogram().update(np.array([-1.0, 1.0], np.float32))
    with pytest.raises(ArgumentValueError, match=r"Histogram\.histogram: bins must be an integer"):
        h.histogram(0)
    with pytest.raises(ArgumentValueError, match=r"Histogram\.quantile: q must lie in \[0, 1\], got 2"):
        h.quantile(2)
    with pytest.raises(ArgumentValueError, match=r"Histogram\.threshold: num_levels must be an integer"):
        h.threshold("entropy", num_levels=1)
    with pytest.raises(ArgumentTypeError, match=r"Histogram\.merge: other must be a Histogram, got int"):
        h.merge(3)  # type: ignore[arg-type]
