"""Scales and zero points of groups of 4-bit weights: by search, by half-quadratic splitting, and AWQ's factors."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("onnx_ir", reason="needs edgekern[toolkit]")

from edgekern.quantization.four_bits import quantize_groups, restored
from edgekern.quantization.methods.awq import awq_factors, output_error, powers_of
from edgekern.quantization.methods.group_search import search_groups
from edgekern.quantization.methods.hqq import hqq_groups

from float_models import f32
from reference import int4

WAYS = {"max": quantize_groups, "mse": search_groups, "hqq": hqq_groups}
RNG = np.random.default_rng(24)


def error_of(found, weights):
    return restored(found).astype(np.float64) - weights


def tailed(columns, k):
    """Weights of which a few are far out."""
    return f32(RNG.standard_t(3, (columns, k)))


@given(
    way=st.sampled_from(sorted(WAYS)),
    columns=st.integers(1, 9),
    k=st.integers(1, 200),
    group=st.sampled_from([32, 64, 128]),
    shift=st.sampled_from([0.0, 0.7, 5.0]),
    size=st.integers(-60, 60),
    seed=st.integers(0, 99),
)
def test_codes_and_scales_are_those_that_kernels_hold(way, columns, k, group, shift, size, seed):
    weights = f32((np.random.default_rng(seed).normal(size=(columns, k)) + shift) * 2.0**size)
    found = WAYS[way](weights, group)
    assert found.codes.shape == weights.shape
    assert found.codes.dtype == np.int8
    assert found.scale.shape == (columns, -(-k // group))
    assert -8 <= found.codes.min() <= found.codes.max() <= 7
    assert found.zero is None or -8 <= found.zero.min() <= found.zero.max() <= 7
    assert (found.scale > 0).all()
    assert np.array_equal(int4.stored_scale(found.scale), found.scale)


@given(size=st.sampled_from([1e-38, 1e-20, 1.0, 1e20, 3e38]), way=st.sampled_from(["mse", "hqq"]))
def test_weights_of_any_size_are_rounded_alike(size, way):
    weights = f32(np.random.default_rng(1).uniform(-1, 1, (4, 64)))
    plain, found = WAYS[way](weights, 32), WAYS[way](f32(weights * size), 32)
    if size >= 1e-20:
        assert np.abs(found.codes.astype(int) - plain.codes).max() <= 1
    assert np.isfinite(restored(found)).all()


@pytest.mark.parametrize("group", [32, 128])
@pytest.mark.parametrize("k", [128, 200])
def test_a_search_leaves_smaller_squares_and_hqq_a_smaller_norm(group, k):
    weights = tailed(16, k)
    errors = {name: error_of(way(weights, group), weights) for name, way in WAYS.items()}
    squares = {name: np.square(error).sum() for name, error in errors.items()}
    norms = {name: (np.abs(error) ** 0.7).sum() for name, error in errors.items()}
    assert squares["mse"] < 0.97 * squares["max"]
    assert norms["hqq"] < 0.97 * norms["max"]
    assert norms["hqq"] < norms["mse"]


@pytest.mark.parametrize("way", ["mse", "hqq"])
def test_what_is_on_levels_stays_what_it_is(way):
    levels = RNG.integers(-7, 8, (5, 64))
    levels[:, ::16], levels[:, 1::16] = 7, -7
    weights = f32(levels * 0.25)
    assert np.array_equal(restored(WAYS[way](weights, 32)), weights)
    assert not WAYS[way](np.zeros((3, 40), np.float32), 32).codes.any()


def test_a_search_comes_near_to_every_pair_of_scale_and_zero_point():
    weights = tailed(6, 32)
    found = np.square(error_of(search_groups(weights, 32), weights)).sum(axis=1)
    for row, error in zip(weights.astype(np.float64), found, strict=True):
        width = max(row.max(), 0) - min(row.min(), 0)
        tried = []
        for fraction, zero in itertools.product(np.linspace(0.5, 1, 51), range(-8, 8)):
            scale = width / 15 * fraction
            left = (np.clip(np.rint(row / scale) + zero, -8, 7) - zero) * scale - row
            tried.append(np.square(left).sum())
        assert error <= 1.2 * min(tried)


# ---- by what weights multiply ----


def moments_of(k, rows=400, mixed=0.3):
    x = RNG.normal(size=(rows, k)) * np.exp(RNG.normal(size=k)) @ (np.eye(k) + mixed * RNG.normal(size=(k, k)))
    return x, x.T @ x / rows


@pytest.mark.parametrize("k", [64, 80])
@pytest.mark.parametrize("mixed", [0, 0.3])
def test_a_search_by_moments_leaves_a_smaller_error_of_the_output(k, mixed):
    weights, (_, moments) = tailed(16, k), moments_of(k, mixed=mixed)
    known = {"none": None, "all": moments} | ({} if mixed else {"diagonal": np.diag(moments)})
    found = {
        name: output_error(error_of(search_groups(weights, 32, moments=given), weights), moments)
        for name, given in known.items()
    }
    assert all(found[name] < 0.9 * found["none"] for name in found if name != "none")


def test_an_error_of_the_output_is_that_of_the_samples():
    x, moments = moments_of(24)
    error = RNG.normal(size=(5, 24))
    assert output_error(error, moments) == pytest.approx(np.square(x @ error.T).sum(axis=1).mean())
    assert output_error(error, np.diag(moments)) == pytest.approx((np.square(error) @ np.square(x).mean(axis=0)).sum())


# ---- AWQ ----


def by_groups(weights):
    return restored(quantize_groups(weights, 32))


def test_channels_that_are_multiplied_by_much_get_larger_factors():
    x = RNG.normal(size=(300, 64))
    x[:, 7] *= 40
    weights = tailed(24, 64)
    magnitudes, moments = np.abs(x).mean(axis=0), x.T @ x / len(x)
    found = awq_factors(weights, magnitudes, moments, by_groups)
    assert found.alpha > 0
    assert found.factors.argmax() == 7
    assert found.error < 0.7 * found.plain_error
    left = by_groups(weights * found.factors) / found.factors - weights
    assert np.square(x @ left.T).sum(axis=1).mean() == pytest.approx(found.error, rel=1e-4)
    for steps in (5, 10):  # of which 20 holds every power
        assert found.error <= awq_factors(weights, magnitudes, moments, by_groups, steps=steps).error


def test_weights_that_are_right_already_keep_factors_of_one():
    levels = RNG.integers(-7, 8, (5, 64))
    levels[:, ::16], levels[:, 1::16] = 7, -7
    found = awq_factors(f32(levels * 0.25), np.arange(1, 65.0), np.arange(1, 65.0) ** 2, by_groups)
    assert (found.alpha, found.error, found.plain_error) == (0, 0, 0)
    assert (found.factors == 1).all()


def test_factors_lie_about_one_and_a_dead_channel_gets_the_smallest():
    found = powers_of(np.array([0.0, 1.0, 4.0, 16.0]), 0.5)
    assert np.allclose(found, [0.5, 0.5, 1, 2])
    assert (powers_of(np.zeros(3), 0.5) == 1).all()
