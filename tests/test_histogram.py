"""Histograms: what is counted, kept, derived and saved."""

import itertools
import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from edgekern.calibration import Histogram, Method
from edgekern.errors import ArgumentTypeError, ArgumentValueError, CalibrationError, EdgekernWarning

from distributions import NAMES, Floats, drawn
from strategies import float_arrays

METHODS: tuple[Method, ...] = ("max", "percentile", "mse", "entropy")


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


def test_strided_values_are_counted_and_their_copy_is_reported() -> None:
    x = np.linspace(-1, 1, 24, dtype=np.float32).reshape(4, 6)
    with pytest.warns(EdgekernWarning, match=r"Histogram\.update: x is copied, 48 bytes: it is not C-contiguous"):
        strided = Histogram().update(x[:, ::2])
    assert strided == Histogram().update(x[:, ::2].copy())
    for order in (np.asfortranarray(x), x[::-1, ::-1], x.reshape(2, 3, 4).transpose(1, 2, 0)[::-1]):
        assert Histogram().update(order) == Histogram().update(x)  # counted as it lies


def test_signal_over_noise_is_that_of_the_values(rng: np.random.Generator) -> None:
    """In dB: of a range that rounds, one that clips, one that rounds all to 0; infinite where nothing is lost."""
    x = rng.normal(size=100_000).astype(np.float32)
    h, power = Histogram().update(x), (x.astype(np.float64) ** 2).mean()
    for lo, hi, bits in ((-4.0, 4.0, 8), (-1.0, 1.0, 8), (-4.0, 4.0, 4)):
        step = (hi - lo) / (2**bits - 1)
        zero = round(-lo / step)
        error = np.clip(np.rint(x / step), -zero, 2**bits - 1 - zero) * step - x
        assert h.sqnr_db(lo, hi, num_bits=bits) == pytest.approx(10 * np.log10(power / (error**2).mean()), abs=0.1)
    assert h.sqnr_db(0.0, 1e6) == pytest.approx(0, abs=1e-3)
    assert Histogram().update(np.zeros(3, np.float32)).sqnr_db(0.0, 0.0) == np.inf
    with pytest.raises(ArgumentValueError, match=r"Histogram\.sqnr_db: lo and hi must be finite"):
        h.sqnr_db(1.0, 2.0)
