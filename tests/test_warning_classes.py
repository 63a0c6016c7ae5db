"""Each kind of warning is a class of its own: it can be silenced alone, and the others are still seen."""

import warnings

import numpy as np
import pytest

import edgekern as ek
from edgekern import errors, quickstart

from gated_models import helper, net

KINDS = {
    one
    for one in vars(errors).values()
    if isinstance(one, type) and issubclass(one, errors.EdgekernWarning) and one is not errors.EdgekernWarning
}
RNG = np.random.default_rng(0)
W = RNG.normal(0, 1, (6, 6)).astype(np.float32)
X = [{"x": RNG.normal(0, 1, (4, 6)).astype(np.float32)} for _ in range(4)]


def calibrated(model, data=X, **options):
    return ek.Calibrator(model, progress=False).collect_many(data).compute_ranges(**options)


def product(bias=None):
    nodes = [helper.make_node("Gemm", ["x", "w", *(["b"] if bias is not None else [])], ["y"])]
    return net(nodes, {"w": W if bias is None else W * 1e-20} | ({} if bias is None else {"b": bias}))


def clips():
    model = product()
    ek.quantize(model, calibrated(model, method="percentile", percentile=50), ek.QuantConfig(recipe="w8a16"))


def copies():
    ek.InferenceSession(ek.compile(product())).run(None, {"x": np.ones((1, 12), np.float32)[:, ::2]})


def falls_back():
    ek.quantize(quickstart.MODEL, None, ek.QuantConfig(recipe="w8a8-dynamic"))


def leaves_out():
    calibrated(product(), [{"x": np.float32([[1, 2, 3, 4, 5, np.nan]])}, *X])


def widens():
    model = product(np.ones(6, np.float32))
    ek.quantize(model, calibrated(model), ek.QuantConfig(recipe="w8a8"))


CAUSES = {
    errors.ClippingWarning: clips,
    errors.CopyWarning: copies,
    errors.FloatFallbackWarning: falls_back,
    errors.LeftOutWarning: leaves_out,
    errors.WidenedScaleWarning: widens,
}


def seen(cause, *silenced):
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        for kind in silenced:
            warnings.simplefilter("ignore", kind)
        cause()
    return {one.category for one in found}


@pytest.mark.parametrize("kind", CAUSES, ids=lambda kind: kind.__name__)
def test_one_kind_is_silenced_by_itself(kind):
    assert kind in seen(CAUSES[kind])
    assert kind not in seen(CAUSES[kind], kind)
    assert kind in seen(CAUSES[kind], *(KINDS - {kind}))
    assert not seen(CAUSES[kind], errors.EdgekernWarning)


def test_host_steps_are_a_kind():
    from host_models import program

    assert seen(program) == {errors.HostStepWarning}
    assert not seen(program, errors.HostStepWarning)


def test_every_kind_has_a_cause_here_and_is_told_of():
    assert set(CAUSES) | {errors.HostStepWarning} == KINDS
    assert all(kind.__doc__ for kind in KINDS)
