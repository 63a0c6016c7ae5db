"""GPTQ on plain matrices: what it does to the error of results, by hand, beside rounding to the nearest."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekern.quantization.four_bits import quantize_groups
from edgekern.quantization.methods.gptq import gptq, output_error
from edgekern.quantization.methods.grids import ColumnGrid, GroupGrid

from float_models import f32

GROUPS = [None, 32, 64, 128]


def correlated(k, seed, dead=0):
    """Second moments of inputs that depend on each other, some of which are always 0."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(4 * k, k // 4 + 1)) @ rng.normal(size=(k // 4 + 1, k)) + 0.3 * rng.normal(size=(4 * k, k))
    x[:, :dead] = 0
    return x.T @ x / len(x)


def real(found):
    k = found.codes.shape[1]
    scale, zero = (
        0 if part is None else np.repeat(part, found.group, axis=1)[:, :k] for part in (found.scale, found.zero)
    )
    return f32((found.codes.astype(np.float64) - zero) * scale)


def nearest(weights, group, highest=7):
    if group is not None:
        return real(quantize_groups(weights, group))
    scale = f32(np.abs(weights).max(axis=1, keepdims=True) / highest)
    return f32(np.rint(weights / scale) * scale)


def rounded(weights, moments, group, highest=7, **options):
    if group is not None:
        grid = GroupGrid(weights, group)
        return real(grid.grouped(gptq(weights, moments, grid, **options)))
    scale = f32(np.abs(weights).max(axis=1) / highest)
    codes = gptq(weights, moments, ColumnGrid(scale, highest), **options)
    assert np.abs(codes).max(initial=0) <= highest
    return f32(codes * scale[:, None])


def updated(weights, moments, damping):
    """As the paper has it: one input after another, the rest moved by the inverse of what is left. Integers."""
    h = moments + damping * np.diagonal(moments).mean() * np.eye(len(moments))
    w, q = weights.astype(np.float64).copy(), np.empty_like(weights)
    for i in range(w.shape[1]):
        inverse = np.linalg.inv(h[i:, i:])
        q[:, i] = np.rint(w[:, i])
        w[:, i:] -= np.outer((w[:, i] - q[:, i]) / inverse[0, 0], inverse[0])
    return q


def test_the_second_weight_mends_the_first():
    """Inputs that are always the same: of two weights of 0.4 one becomes 1, and their sum stays about right."""
    weights = np.array([[0.4, 0.4]], np.float32)
    codes = gptq(weights, np.ones((2, 2)), ColumnGrid(np.ones(1, np.float32), 7))
    assert codes.tolist() == [[0, 1]]
    assert codes.dtype == np.int8


@pytest.mark.parametrize("k", [1, 5, 40, 150])
@pytest.mark.parametrize("damping", [0.01, 0.3])
def test_codes_are_those_of_the_papers_updates(k, damping):
    weights = f32(np.random.default_rng(k).normal(size=(6, k)) * 4)
    moments = correlated(k, 1)
    codes = gptq(weights, moments, ColumnGrid(np.ones(6, np.float32), 127), damping=damping)
    wanted = updated(weights, moments, damping)
    assert (codes == wanted).mean() > 0.98  # float32 on one side: a tie may fall either way
    assert output_error(weights, f32(codes), moments).sum() == pytest.approx(
        output_error(weights, f32(wanted), moments).sum(), rel=0.05
    )


@pytest.mark.parametrize("group", GROUPS)
@pytest.mark.parametrize("by_activation", [False, True])
@pytest.mark.parametrize("k", [200, 256])
def test_results_are_nearer_than_those_of_nearest_weights(group, by_activation, k):
    weights = f32(np.random.default_rng(3).normal(size=(33, k)))
    moments = correlated(k, 4, dead=3)
    found = rounded(weights, moments, group, by_activation=by_activation)
    plain = output_error(weights, nearest(weights, group), moments).sum()
    assert output_error(weights, found, moments).sum() < 0.5 * plain


@given(
    columns=st.integers(1, 5),
    k=st.integers(1, 300),
    group=st.sampled_from(GROUPS),
    by_activation=st.booleans(),
    energy=st.floats(1e-9, 1e9),
    seed=st.integers(0, 99),
)
def test_inputs_that_have_nothing_in_common_leave_weights_nearest(columns, k, group, by_activation, energy, seed):
    weights = f32(np.random.default_rng(seed).normal(size=(columns, k)))
    found = rounded(weights, energy * np.eye(k), group, by_activation=by_activation)
    assert np.array_equal(found, nearest(weights, group))


@pytest.mark.parametrize("group", GROUPS)
def test_inputs_that_never_come_leave_weights_nearest(group):
    weights = f32(np.random.default_rng(5).normal(size=(4, 130)))
    assert np.array_equal(rounded(weights, np.zeros((130, 130)), group), nearest(weights, group))


@pytest.mark.parametrize("damping", [0.0, 0.01])
def test_fewer_samples_than_inputs(damping):
    """Moments of rank 10 have no factors of their own: damping makes them."""
    rng = np.random.default_rng(6)
    x, weights = rng.normal(size=(10, 96)), f32(rng.normal(size=(8, 96)))
    moments = x.T @ x / 10
    found = rounded(weights, moments, None, damping=damping)
    assert (
        output_error(weights, found, moments).sum() < 0.5 * output_error(weights, nearest(weights, None), moments).sum()
    )


def test_codes_that_reach_less_than_the_largest_weight():
    """One outlier at an input that seldom comes: the others get its share of the levels."""
    weights = f32(np.random.default_rng(7).uniform(-1, 1, (5, 32)))
    weights[:, 0] = 1.6
    worth = np.r_[1e-6, np.ones(31)]
    grids = [GroupGrid(weights, 32, importance=importance, shifted=False) for importance in (None, worth)]
    wide, narrow = (
        output_error(weights, real(grid.grouped(gptq(weights, np.diag(worth), grid))), np.diag(worth)) for grid in grids
    )
    assert (narrow < 0.7 * wide).all()


def test_a_grid_of_anyones_own():
    """Weights of -1, 0 and 1 times a scale a group, as a format of less than two bits has them."""

    class Ternary:
        group = 16

        def __init__(self):
            self.scales = {}

        def fit(self, first, weights):
            self.scales[first // 16] = np.abs(weights).mean(axis=0)

        def round(self, at, weights):
            scale = self.scales[at // 16]
            codes = np.rint(weights / scale).clip(-1, 1)
            return codes, codes * scale

    weights = f32(np.random.default_rng(8).normal(size=(7, 64)))
    moments = correlated(64, 9)
    grid, plain = Ternary(), Ternary()
    codes = gptq(weights, moments, grid)
    spread = np.repeat(np.array([grid.scales[i] for i in range(4)]).T, 16, axis=1)
    for first in range(0, 64, 16):
        plain.fit(first, weights.T[first : first + 16])
    nearest_ones = np.array([plain.round(i, weights[:, i])[1] for i in range(64)]).T
    assert set(np.unique(codes)) == {-1, 0, 1}
    assert (
        output_error(weights, f32(codes * spread), moments).sum() < output_error(weights, nearest_ones, moments).sum()
    )
