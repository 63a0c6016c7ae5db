"""Sparsity: by magnitude, in patterns of N:M, and by what weights are multiplied by (Wanda)."""

import zlib

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("onnx_ir", reason="needs edgekern[toolkit]")

import edgekern as ek
import transformers
from edgekern.errors import ArgumentTypeError, ArgumentValueError, CalibrationError, EdgekernWarning, QuantizationError
from edgekern.quantization import sparsity_of
from test_smooth import constants, fed, outlying, results, same

from float_models import samples, small_cnn, sqnr_db

RNG = np.random.default_rng(243)


def mlp(k=16, hidden=24, transposed=False):
    net = transformers.Net(4)
    x = net.input("x", ("batch", k))
    if transposed:
        h = net.op("Gemm", x, net.const(net.rng.normal(size=(hidden, k))), net.const(np.zeros(hidden)), transB=1)
    else:
        h = net.op("MatMul", x, net.weights(k, hidden))
    return net.model(net.op("MatMul", net.op("Relu", h), net.weights(hidden, 8)))


def matrix(model, k=16, hidden=24):
    """(outputs, inputs) of the first layer."""
    [found] = [array for array in constants(model).values() if sorted(array.shape) == sorted((k, hidden))]
    return found if found.shape == (hidden, k) else found.T


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("share", [0.0, 0.3, 0.75])
def test_the_smallest_weights_of_a_layer_become_zero(share, transposed):
    model = mlp(transposed=transposed)
    made = ek.sparsify(model, sparsity=share)
    onnx.checker.check_model(made, full_check=True)
    before, after = matrix(model), matrix(made)
    gone = after == 0
    assert np.count_nonzero(gone) == round(share * gone.size)
    assert np.array_equal(after[~gone], before[~gone])
    assert not gone.any() or np.abs(before[gone]).max() <= np.abs(before[~gone]).min()
    assert next(iter(sparsity_of(made).values())) == np.count_nonzero(gone) / gone.size


@given(pattern=st.sampled_from([(1, 2), (2, 4), (1, 4), (3, 8)]), transposed=st.booleans())
def test_of_every_m_inputs_the_n_largest_stay(pattern, transposed):
    model = mlp(transposed=transposed)
    n, m = pattern
    before, after = matrix(model), matrix(ek.sparsify(model, pattern=f"{n}:{m}"))
    groups, left = before.reshape(-1, m), after.reshape(-1, m)
    assert (np.count_nonzero(left, axis=1) == n).all()
    largest = np.sort(np.abs(groups), axis=1)[:, -n:].sum(axis=1)
    assert np.allclose(np.abs(left).sum(axis=1), largest)


def test_a_convolution_has_its_pattern_along_channels():
    net = transformers.Net(6)
    x = net.input("x", (1, 8, 6, 6))
    model = net.model(net.op("Conv", x, net.const(RNG.normal(size=(4, 8, 3, 3)))))
    [weights] = [array for array in constants(ek.sparsify(model, pattern="2:4")).values() if array.ndim == 4]
    assert (np.count_nonzero(weights.reshape(4, 2, 4, 3, 3), axis=2) == 2).all()


def test_wanda_keeps_what_is_multiplied_by_much():
    model = outlying()
    seen = fed(model)
    before, after = constants(model), constants(ek.sparsify(model, method="wanda", samples=seen))
    [name] = [key for key, array in before.items() if array.shape == (16, 32)]
    assert after[name][3].all()  # the channel that is far out
    assert before["c0"][3] != 0
    assert (np.count_nonzero(after[name], axis=0) == 8).all()  # half of each output
    plain = constants(ek.sparsify(model))[name]
    assert not plain[3].all()


def test_wanda_leaves_less_error_than_magnitude():
    model = outlying(10)
    [feeds] = fed(model, 1, 50)
    found = [
        sqnr_db(results(model, feeds)[0], results(made, feeds)[0])
        for made in (ek.sparsify(model), ek.sparsify(model, method="wanda", samples=fed(model, 8)))
    ]
    assert found[1] > found[0] + 3


def test_wanda_counts_channels_of_images(rng):
    model = small_cnn()
    with pytest.warns(EdgekernWarning, match="layers stay as they were, as their inputs do not fit"):
        made = ek.sparsify(model, method="wanda", samples=[{"x": samples(rng)[:4]}])
    assert max(sparsity_of(made).values()) == pytest.approx(0.5, abs=0.05)


def test_layers_that_rules_name_stay():
    model = mlp(transposed=True)
    made = ek.sparsify(model, keep=["Gemm"])
    assert np.array_equal(matrix(made), matrix(model))
    assert [share > 0 for share in sparsity_of(made).values()] == [False, True]


def test_zeros_stay_zeros_in_8_bits_and_compress():
    model = mlp(256, 256)
    sizes = []
    for given_model in (model, ek.sparsify(model, sparsity=0.8)):
        qdq = ek.quantize(given_model, None, ek.QuantConfig(recipe="w8a8-dynamic"))
        sizes.append(len(zlib.compress(qdq.SerializeToString())))
        codes = [array for array in constants(qdq).values() if array.dtype == np.int8 and array.ndim == 2]
    assert all(np.mean(array == 0) >= 0.79 for array in codes)
    assert sizes[1] < 0.6 * sizes[0]


def test_a_share_of_nothing_changes_nothing():
    model = transformers.vision_transformer()
    assert same(model, ek.sparsify(model, sparsity=0)) > 110


def test_what_does_not_fit_is_refused():
    model = mlp()
    with pytest.raises(ArgumentValueError, match="sparsify: method must be 'magnitude' or 'wanda', got 'random'"):
        ek.sparsify(model, method="random")
    with pytest.raises(ArgumentValueError, match="sparsify: method 'wanda' needs samples"):
        ek.sparsify(model, method="wanda")
    with pytest.raises(ArgumentValueError, match="sparsify: samples are for method 'wanda'"):
        ek.sparsify(model, samples=fed(model))
    with pytest.raises(ArgumentValueError, match="sparsify: sparsity must be at least 0 and below 1, got"):
        ek.sparsify(model, sparsity=1)
    with pytest.raises(ArgumentValueError, match="sparsity must not be given with a pattern"):
        ek.sparsify(model, sparsity=0.5, pattern="2:4")
    for pattern in ("4:2", "2/4", "0:4", "٢:٤"):
        with pytest.raises(ArgumentValueError, match="sparsify: pattern must be like '2:4'"):
            ek.sparsify(model, pattern=pattern)
    spoilt = [{name: np.full_like(array, np.inf) for name, array in feeds.items()} for feeds in fed(model)]
    with pytest.raises(CalibrationError, match=r"sparsify: samples give .* NaN or infinity"):
        ek.sparsify(model, method="wanda", samples=spoilt)
    with pytest.raises(ArgumentTypeError, match="samples must be a Calibrator or an iterable of feeds, got int"):
        ek.sparsify(model, method="wanda", samples=3)
    with pytest.raises(ArgumentTypeError, match="sparsify: keep must be a list of rules"):
        ek.sparsify(model, keep="Gemm")
    with pytest.raises(ArgumentValueError, match="the rule 'Conv' of keep names no"):
        ek.sparsify(model, keep=["Conv"])
    with pytest.raises(QuantizationError, match="sparsify: keep leaves no layer"):
        ek.sparsify(model, keep=["MatMul"])
    with pytest.raises(QuantizationError, match=r"no layer of model .* takes the method and the pattern"):
        ek.sparsify(model, pattern="1:7")
