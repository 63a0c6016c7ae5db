"""Histograms, and the thresholds and ranges taken of them."""

import itertools
import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from statistics import NormalDist
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from edgekern import _core
from edgekern.calibration import Histogram, Method
from edgekern.errors import ArgumentTypeError, ArgumentValueError, CalibrationError

from reference import calibration as reference
from strategies import float_arrays

Floats = npt.NDArray[np.float32]
METHODS: tuple[Method, ...] = ("max", "percentile", "mse", "entropy")
DRAWN = 100_000
SPACED = 1_000_000


def drawn(name: str) -> Floats:
    """Values drawn at random: what activations look like, and what breaks calibrators."""
    rng = np.random.default_rng(7)
    normal = rng.normal(size=DRAWN)
    values = {
        "normal": lambda: normal,
        "laplace": lambda: rng.laplace(size=DRAWN),
        "student_t3": lambda: rng.standard_t(3, DRAWN),
        "uniform": lambda: rng.uniform(-1, 1, DRAWN),
        "half_normal": lambda: np.abs(normal),
        "relu": lambda: np.maximum(normal, 0),
        "relu6": lambda: np.clip(3 * normal, 0, 6),
        "one_outlier": lambda: np.append(normal, 287.2),
        "lognormal": lambda: rng.lognormal(size=DRAWN),
        "bimodal": lambda: np.concatenate([normal / 2 - 3, normal + 4]),
        "sparse": lambda: np.where(rng.random(DRAWN) < 0.99, 0, normal),
        "negative": lambda: -np.exp(normal),
        "constant": lambda: np.full(1000, 3.14),
        "two_values": lambda: np.where(normal > 1, 0.5, -0.25),
        "subnormal": lambda: normal * 1e-40,
        "huge": lambda: np.clip(normal, -3, 3) * 1e38,
        "many_octaves": lambda: normal * np.exp2(rng.integers(-30, 30, DRAWN)),
    }[name]()
    return values.astype(np.float32)


NAMES = (
    "normal",
    "laplace",
    "student_t3",
    "uniform",
    "half_normal",
    "relu",
    "relu6",
    "one_outlier",
    "lognormal",
    "bimodal",
    "sparse",
    "negative",
    "constant",
    "two_values",
    "subnormal",
    "huge",
    "many_octaves",
)


def levels_of(x: Floats) -> int:
    return 128 if x.min() < 0 else 256


# --- counting


@pytest.mark.parametrize("name", NAMES)
def test_histogram_counts_keys_as_numpy_does(name: str) -> None:
    x = drawn(name)
    h = Histogram().update(x)
    canonical = x + np.float32(0)  # -0 counts as +0
    keys, counts = np.unique(canonical.view(np.uint32) >> 16, return_counts=True)
    state = h.state_dict()
    assert_array_equal(state["keys"], keys)
    assert_array_equal(state["counts"], counts)
    assert (h.count, h.min, h.max, h.num_zero) == (x.size, x.min(), x.max(), np.count_nonzero(x == 0))


@given(x=st.integers(0, 300).flatmap(lambda n: float_arrays((n,), special=True)), data=st.data())
def test_any_split_in_any_order_gives_the_same_bits(x: Floats, data: st.DataObject) -> None:
    whole = Histogram().update(x)
    cuts = sorted(data.draw(st.lists(st.integers(0, x.size), max_size=6)))
    parts = [x[a:b] for a, b in itertools.pairwise([0, *cuts, x.size])]
    order = data.draw(st.permutations(range(len(parts))))
    one_by_one, merged = Histogram(), Histogram()
    for i in order:
        one_by_one.update(parts[i])
        merged.merge(Histogram().update(parts[i][::-1]))
    assert one_by_one == whole == merged
    if whole.count:
        for method in METHODS:
            assert whole.range(method, num_bins=256) == merged.range(method, num_bins=256)


def test_large_updates_equal_small_ones(rng: np.random.Generator) -> None:
    x = np.concatenate([rng.normal(size=300_001), np.zeros(70_000), -np.zeros(70_000), [np.nan, np.inf, -np.inf]])
    x = rng.permutation(x.astype(np.float32))
    small = Histogram()
    for part in np.array_split(x, 400):
        small.update(part)
    large = Histogram().update(x)
    assert large == small
    assert (large.num_nan, large.num_inf, large.num_zero) == (1, 2, 140_000)


def test_counts_pass_2_to_the_31() -> None:
    h = Histogram().update(np.array([0.0, 1.0, -2.0], np.float32))
    for _ in range(40):
        h.merge(h)
    assert h.count == 3 << 40
    assert h.histogram(8)[0].sum() == 3 << 40
    assert h.threshold("entropy", num_bins=2048) == 2.0
    assert (h.quantile(0.3), h.quantile(0.6), h.quantile(0.9)) == (-2.0, 0.0, 1.0)


def test_nan_and_infinities_are_counted_and_left_out() -> None:
    x = np.array([[1.0, np.nan], [np.inf, -np.inf]], np.float32)
    h = Histogram().update(x)
    assert (h.count, h.num_nan, h.num_inf, h.min, h.max) == (1, 1, 2, 1.0, 1.0)
    signaling = np.array([0x7F800001, 0xFFC00000], np.uint32).view(np.float32)  # NaN whose key is infinity's
    assert Histogram().update(signaling).num_nan == 2


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_other_float_types_count_as_float32(dtype: npt.DTypeLike, rng: np.random.Generator) -> None:
    x = rng.normal(size=(50, 7)).astype(dtype)
    assert Histogram().update(x) == Histogram().update(x.astype(np.float32))
    assert Histogram().update(x.T[::2]) == Histogram().update(np.ascontiguousarray(x.T[::2]).astype(np.float32))


def test_float64_beyond_float32_is_infinite() -> None:
    assert Histogram().update(np.array([1e300, 1.0])).num_inf == 1


def test_a_scalar_and_an_empty_array_are_arrays() -> None:
    h = Histogram().update(np.zeros((0, 3), np.float32)).update(np.float32(2.5))
    assert (h.count, h.min, h.max) == (1, 2.5, 2.5)


@pytest.mark.parametrize("x", [np.arange(3), np.array([True]), np.array(["a"]), np.array([1j])])
def test_update_refuses_what_is_no_float(x: npt.NDArray[Any]) -> None:
    with pytest.raises(ArgumentTypeError, match=r"Histogram\.update: x must be float32.*got"):
        Histogram().update(x)


def test_threads_may_share_a_histogram(rng: np.random.Generator) -> None:
    parts = rng.normal(size=(64, 5000)).astype(np.float32)
    shared = Histogram()
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(shared.update, parts))
    assert shared == Histogram().update(parts)


@given(x=float_arrays((97,), special=True))
def test_a_saved_histogram_comes_back_equal(x: Floats) -> None:
    h = Histogram().update(x)
    assert Histogram.from_state_dict(h.state_dict()) == h
    assert pickle.loads(pickle.dumps(h)) == h
    assert h + h == Histogram().update(x).update(x)


@pytest.mark.parametrize(
    "change",
    [
        {"counts": np.zeros(3, np.uint64)},
        {"min": float("nan")},
        {"max": -5.0},
        {"num_zero": 7},
        {"keys": np.array([0x7F80, 0x3F80], np.uint16)},
        {"keys": np.array([0x3F80, 0x3F80], np.uint16)},
        {"counts": np.array([2**63, 2**63], np.uint64)},
        {"keys": "what"},
    ],
    ids=str,
)
def test_a_state_that_contradicts_itself_is_refused(change: dict[str, Any]) -> None:
    state = Histogram().update(np.array([1.0, -2.0], np.float32)).state_dict() | change
    with pytest.raises(CalibrationError, match="state is not one that state_dict"):
        Histogram.from_state_dict(state)


def test_histogram_prints_what_it_saw() -> None:
    h = Histogram().update(np.array([0.0, 1.5, np.nan], np.float32))
    assert repr(h) == "Histogram(count=2, min=0, max=1.5, num_zero=1, num_nan=1)"
    assert repr(Histogram()) == "Histogram(count=0, min=nan, max=nan, num_zero=0)"


def test_a_histogram_needs_numpy_alone() -> None:
    code = (
        "import sys; from edgekern.calibration import Histogram; Histogram().update([1.0]).range('mse');"
        "print(sorted({'onnx', 'onnxruntime', 'onnx_ir', 'rich'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# --- derived histograms and quantiles


@pytest.mark.parametrize("bins", [1, 7, 2048])
@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_linear_histogram_stays_near_numpys(name: str, bins: int, signed: bool) -> None:
    x = drawn(name)
    counts, edges = Histogram().update(x).histogram(bins, signed=signed)
    assert counts.sum() == x.size
    values = x.astype(np.float64) if signed else np.abs(x.astype(np.float64))
    assert edges[-1] == values.max()
    # Up to an edge the counts differ by no more than what lies within one key of it.
    running = np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])
    ordered = np.sort(values)
    width = np.maximum(np.abs(edges) / 64, 2.0**-132) + (edges[-1] - edges[0]) * 1e-12
    assert np.all(running >= np.searchsorted(ordered, edges - width, "left"))
    assert np.all(running <= np.searchsorted(ordered, edges + width, "right"))


@pytest.mark.parametrize("name", NAMES)
def test_quantiles_are_within_a_key_of_the_datas(name: str) -> None:
    x = drawn(name)
    h = Histogram().update(x)
    for q in (0.0, 0.001, 0.25, 0.5, 0.9, 0.999, 1.0):
        for magnitude, values in ((False, x), (True, np.abs(x))):
            exact = np.quantile(values.astype(np.float64), q, method="inverted_cdf")
            assert_allclose(h.quantile(q, magnitude=magnitude), exact, rtol=1 / 64, atol=2.0**-132)
    assert (h.quantile(0), h.quantile(1)) == (x.min(), x.max())


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
    assert np.all(divergences[: kept - num_levels] > divergences.min() + reference.TIE - 1e-12)


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


SPACED_NAMES = (
    "normal",
    "laplace",
    "logistic",
    "student_t2",
    "uniform",
    "exponential",
    "half_normal",
    "relu",
    "lognormal",
    "pareto",
    "gumbel",
    "one_outlier",
    "bimodal",
    "swish",
    "sigmoid",
)


def spaced(name: str) -> Floats:
    """Evenly spaced quantiles: the distribution without the luck of a draw, to which a flat minimum answers loudly."""
    p = (np.arange(SPACED) + 0.5) / SPACED
    normal = np.fromiter(map(NormalDist().inv_cdf, p), np.float64, SPACED)
    values = {
        "normal": lambda: normal,
        "laplace": lambda: np.where(p < 0.5, np.log(2 * p), -np.log(2 - 2 * p)),
        "logistic": lambda: np.log(p / (1 - p)),
        "student_t2": lambda: (2 * p - 1) * np.sqrt(2 / (4 * p * (1 - p))),
        "uniform": lambda: 2 * p - 1,
        "exponential": lambda: -np.log1p(-p),
        "half_normal": lambda: np.abs(normal),
        "relu": lambda: np.maximum(normal, 0),
        "lognormal": lambda: np.exp(normal),
        "pareto": lambda: (1 - p) ** (-1 / 3) - 1,
        "gumbel": lambda: -np.log(-np.log(p)),
        "one_outlier": lambda: np.append(normal, 287.2),
        "bimodal": lambda: np.concatenate([normal / 2 - 3, normal + 4]),
        "swish": lambda: 2 * normal / (1 + np.exp(-2 * normal)),
        "sigmoid": lambda: 1 / (1 + np.exp(-3 * normal)),
    }[name]()
    return values.astype(np.float32)


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
        ({"method": "kl"}, "method must be one of 'max', 'percentile', 'mse', 'entropy', got 'kl'"),
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
