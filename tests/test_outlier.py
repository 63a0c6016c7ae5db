"""One value at 287.2 among values below 4.1, and the values behind a ReLU: what each method does."""

import numpy as np
import numpy.typing as npt
import pytest
from numpy.testing import assert_allclose

from edgekern.calibration import Histogram
from edgekern.calibration.observers.moving_average import MovingAverage

Floats = npt.NDArray[np.float32]
OUTLIER, BULK = 287.2, 4.1


@pytest.fixture(scope="module")
def values() -> Floats:
    rng = np.random.default_rng(2026)
    x = rng.normal(0, 1.2, 200_000).astype(np.float32)
    x[np.abs(x) > BULK] = BULK
    x[-1] = OUTLIER
    return x


def bulk_db(x: Floats, t: float, levels: int = 127) -> float:
    """Signal to noise of everything but the outlier, quantized to [-t, t]."""
    bulk = x[np.abs(x) <= BULK].astype(np.float64)
    scale = t / levels
    error = bulk - np.clip(np.rint(bulk / scale), -levels, levels) * scale
    return 10 * float(np.log10(np.square(bulk).sum() / np.square(error).sum()))


def thresholds(x: Floats) -> dict[str, float]:
    h = Histogram().update(x)
    return {
        "max": h.threshold("max"),
        "percentile": h.threshold("percentile"),
        "mse": h.threshold("mse"),
        "p-norm": h.threshold("p-norm"),
        "entropy, 2048 bins": h.threshold("entropy", num_bins=2048),
        "entropy": h.threshold("entropy"),
        "two-sided": max(map(abs, h.range("entropy-two-sided"))),
        "moving average": MovingAverage().update(x[:-1000]).update(x[-1000:]).range[1],
    }


def test_what_each_observer_makes_of_one_outlier(values: Floats) -> None:
    """The table of docs/calibration.md."""
    found = thresholds(values)
    db = {name: bulk_db(values, t) for name, t in found.items()}
    for name, t in found.items():
        print(f"{name:20} {t:9.3f} {db[name]:7.2f} dB")
    assert_allclose(found["max"], OUTLIER, rtol=1e-6)
    assert 3.9 < found["percentile"] <= 1.01 * BULK
    assert found["entropy"] < 1.25 * BULK
    assert found["two-sided"] < 1.25 * BULK
    assert found["p-norm"] > found["mse"] > 20 * BULK
    assert min(db["entropy"], db["two-sided"], db["percentile"]) > db["max"] + 30


def test_2048_bins_cannot_express_the_threshold(values: Floats) -> None:
    h = Histogram().update(values)
    floor = 128 / 2048 * OUTLIER
    for num_bins in (128, 512, 2048):
        assert h.threshold("entropy", num_bins=num_bins) >= 128 / num_bins * OUTLIER
        assert h.kl(BULK, num_bins=num_bins) == np.inf
    assert BULK < floor < 18
    assert np.isfinite(h.kl(BULK))
    assert h.threshold("entropy", num_bins=16384) < 1.25 * BULK


def test_a_recipe_without_the_tail_always_answers_a_sixteenth() -> None:
    """The search that circulates in articles: the clipped mass is masked away, nothing is normalized."""
    rng = np.random.default_rng(4)
    draws = {"normal": rng.normal, "uniform": rng.uniform, "t3": lambda size: rng.standard_t(3, size)}
    for draw in draws.values():
        x = draw(size=100_000)
        counts, edges = np.histogram(np.abs(x), 2048, (0, np.abs(x).max()))
        first = 128  # its first candidate: each bin is a level of its own, so P = Q and the divergence is 0
        p = counts[:first].astype(float)
        q = np.repeat(np.add.reduceat(p, np.arange(first)), 1)
        inside = p > 0
        assert np.sum(p[inside] * np.log(p[inside] / q[inside])) == 0
        assert_allclose(edges[first], np.abs(x).max() / 16)
        assert Histogram().update(x.astype(np.float32)).threshold("entropy") > 2 * edges[first]


@pytest.mark.parametrize("seed", range(3))
def test_asymmetric_levels_quarter_the_squared_error_behind_a_relu(seed: int) -> None:
    x = np.maximum(np.random.default_rng(seed).normal(size=100_000), 0).astype(np.float32)
    h = Histogram().update(x)
    one_sided = h.quantization_error(*h.range("max"))
    scale = h.range("max", symmetric=True)[1] / 127  # the levels below 0 have nothing to say
    symmetric = float(np.mean(np.square(x - np.clip(np.rint(x / scale), -127, 127) * scale, dtype=np.float64)))
    assert_allclose(symmetric / one_sided, 4, rtol=0.1)
