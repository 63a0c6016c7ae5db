"""What is kept of a tensor beside its histogram: samples, statistics, Gram matrices, and an average with an order."""

import itertools
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from numpy.testing import assert_allclose, assert_equal

from edgekern.calibration.observers.gram import GramMatrix
from edgekern.calibration.observers.kept_samples import KeptSamples
from edgekern.calibration.observers.moving_average import MovingAverage
from edgekern.calibration.observers.statistics import ChannelStatistics
from edgekern.errors import CalibrationError

Array = npt.NDArray[Any]

# ---- samples


@pytest.mark.parametrize("limit", [0, 15, 16, 100, 1000, 10_000])
def test_samples_stay_within_the_limit_whatever_the_order(limit: int, rng: np.random.Generator) -> None:
    arrays = [
        rng.normal(size=(int(rows), int(rng.integers(1, 9)))).astype(np.float32) for rows in rng.integers(1, 9, 30)
    ]
    first = KeptSamples(limit)
    for x in arrays:
        first.update(x)
        assert sum(sample.nbytes for sample in first.samples) <= limit
    for seed in range(5):
        parts = [KeptSamples(limit) for _ in range(3)]
        for at in np.random.default_rng(seed).permutation(30):
            parts[int(at) % 3].update(arrays[at][::-1])
        merged = KeptSamples(limit).merge(parts[2]).merge(parts[0]).merge(parts[1])
        assert_equal(merged.state_dict(), first.state_dict())
    assert first.limit_bytes == limit
    assert f"of at most {limit} bytes" in repr(first)
    assert first.samples or limit < 36


def test_nothing_small_slips_in_behind_what_did_not_fit(rng: np.random.Generator) -> None:
    """Else it would stay or go by its place in the order."""
    small = rng.normal(size=(40, 1)).astype(np.float32)
    large = rng.normal(size=(40, 30)).astype(np.float32)
    there, back = KeptSamples(400), KeptSamples(400)
    for x, y in zip(small, large, strict=True):
        there.update(x[None]).update(y[None])
    for x, y in zip(small[::-1], large[::-1], strict=True):
        back.update(y[None]).update(x[None])
    assert_equal(there.state_dict(), back.state_dict())


# ---- statistics


@pytest.mark.parametrize("shape", [(7, 3), (4, 5, 6), (3, 2, 4, 5)])
@pytest.mark.parametrize("offset", [0.0, 1000.0])
def test_statistics_are_numpys(shape: tuple[int, ...], offset: float, rng: np.random.Generator) -> None:
    x = (rng.normal(size=shape) + offset).astype(np.float32)
    found = ChannelStatistics().update(x).values()
    assert found is not None
    axes = (0, *range(2, x.ndim))
    assert_equal(found.min, x.min(axis=axes))
    assert_equal(found.max, x.max(axis=axes))
    assert_allclose(found.mean, x.mean(axis=axes, dtype=np.float64), rtol=1e-12, atol=1e-15)
    assert_allclose(found.variance, x.astype(np.float64).var(axis=axes), rtol=1e-6)


def test_statistics_of_nothing_or_of_changing_channels_are_none() -> None:
    x = np.ones((2, 3, 4), np.float32)
    assert ChannelStatistics().values() is None
    assert ChannelStatistics().update(x).update(x[:, :2]).values() is None
    one = ChannelStatistics().update(x).values()
    assert one is not None
    assert_equal(one.variance, np.zeros(3))


# ---- Gram matrices


@pytest.mark.parametrize("shape", [(6, 5), (3, 7, 5), (2, 5, 9, 8)])
@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e3])
def test_a_gram_matrix_is_the_sum_of_outer_products(
    shape: tuple[int, ...], scale: float, rng: np.random.Generator
) -> None:
    x = (scale * rng.normal(size=shape)).astype(np.float32)
    rows = (x.transpose(0, 2, 3, 1) if x.ndim == 4 else x).reshape(-1, 5).astype(np.float64)
    expected = rows.T @ rows
    gram = GramMatrix().update(x)
    found = gram.values()
    assert found is not None
    assert gram.rows == len(rows)
    assert_allclose(found, expected, atol=3e-5 * np.abs(expected).max())
    assert_equal(found, found.T)


def test_a_gram_matrix_stays_within_its_limit(rng: np.random.Generator) -> None:
    x = rng.normal(size=(4, 9)).astype(np.float32)
    assert GramMatrix(16 * 81).update(x).values() is not None
    refused = GramMatrix(16 * 81 - 1).update(x)
    assert refused.values() is None
    assert "none: too many columns for the limit" in repr(refused)
    assert GramMatrix().update(x).update(x[:, :4]).values() is None
    assert GramMatrix().update(1e9 * x).values() is None


def test_more_rows_than_fit_a_product_are_summed_exactly(rng: np.random.Generator) -> None:
    x = rng.integers(-8, 8, (1, 40_000, 3)).astype(np.float32)
    x[0, ::10_000] = 8
    found = GramMatrix().update(x).values()
    assert_equal(found, x[0].astype(np.float64).T @ x[0].astype(np.float64))


# ---- the moving average


def test_a_moving_average_follows_its_definition_and_says_that_it_has_an_order(rng: np.random.Generator) -> None:
    batches = [(at + 1) * rng.normal(size=50).astype(np.float32) for at in range(6)]
    average = MovingAverage()
    for x in batches:
        average.update(x)
    lo, hi = float(batches[0].min()), float(batches[0].max())
    for x in batches[1:]:
        lo, hi = 0.9 * lo + 0.1 * float(x.min()), 0.9 * hi + 0.1 * float(x.max())
    assert_allclose(average.range, (lo, hi), rtol=1e-12)
    assert "depends on their order" in repr(average)
    orders = {MovingAverage().update(a).update(b).range for a, b in itertools.permutations(batches[:2])}
    assert len(orders) == 2


def test_moving_averages_are_not_merged() -> None:
    one, none = MovingAverage().update(np.ones(3, np.float32)), MovingAverage()
    assert none.merge(one).range == (0.0, 1.0)
    with pytest.raises(CalibrationError, match=r"MovingAverage\.merge: .* depends on the order .* leave"):
        one.merge(none)
    with pytest.raises(CalibrationError, match=r"MovingAverage\.follow: later has seen 2 batches"):
        one.follow(MovingAverage().update(np.ones(3, np.float32)).update(np.zeros(3, np.float32)))
    before = one.state_dict()
    assert MovingAverage().load_state_dict(before).state_dict() == before
    for damaged in ({**before, "lo": 2.0}, {**before, "hi": np.nan}, {**before, "batches": -1}, {}):
        with pytest.raises(CalibrationError, match=r"MovingAverage\.load_state_dict: state is not one"):
            MovingAverage().load_state_dict(damaged)
    assert MovingAverage().update(np.full(3, np.nan, np.float32)).range == (0.0, 0.0)
