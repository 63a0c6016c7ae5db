"""Whatever data and weights are, no scale is written that is 0, subnormal, infinite or NaN."""

import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import edgekern as ek
from edgekern.errors import EdgekernError, QuantizationError

from gated_models import helper, net, onnx

TINY, HUGE = np.finfo(np.float32).tiny, np.finfo(np.float32).max
ODD = st.sampled_from([0.0, 1e-45, 1e-40, float(TINY), 1e-30, 1.0, 1e30, 3e38])


def scales(qdq):
    """By name, of all Q and DQ."""
    known = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in qdq.graph.initializer}
    nodes = [node for node in qdq.graph.node if node.op_type in ("QuantizeLinear", "DequantizeLinear")]
    return {node.input[1]: known[node.input[1]] for node in nodes}


def chain(weight, bias):
    rng = np.random.default_rng(0)
    w = rng.choice([-1, 0, 1], (6, 6)).astype(np.float32) * np.float32(weight)
    nodes = [helper.make_node("Gemm", ["x", "w", "b"], ["h"]), helper.make_node("Relu", ["h"], ["r"])]
    nodes += [helper.make_node("MatMul", ["r", "w"], ["y"])]
    return net(nodes, {"w": w, "b": np.full(6, bias, np.float32)})


@settings(max_examples=60, deadline=None)
@given(weight=ODD, bias=ODD, value=ODD, activations=st.sampled_from(["u8", "s8"]))
def test_scales_are_normal_numbers(weight, bias, value, activations):
    model = chain(weight, bias)
    x = np.float32([[value, -value, value / 2, 0, value, value / 3]])
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        try:
            ranges = ek.Calibrator(model, progress=False).collect_many([{"x": x}]).compute_ranges(method="max")
            qdq = ek.quantize(model, ranges, ek.QuantConfig(recipe="w8a8", activations=activations))
        except EdgekernError:
            return  # told, and nothing was written
    found = scales(qdq)
    assert found
    for name, scale in found.items():
        assert ((scale >= TINY) & (scale <= HUGE)).all(), (name, scale)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_no_numbers_write_nothing(value):
    model = chain(1.0, 1.0)
    x = np.full((1, 6), value, np.float32)
    calibrator = ek.Calibrator(model, progress=False).collect_many([{"x": x}])
    with pytest.raises(EdgekernError, match="had no finite value"):
        calibrator.compute_ranges()


@pytest.mark.filterwarnings("ignore::edgekern.errors.EdgekernWarning")
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_weights_that_are_no_numbers_write_nothing(value):
    model = net([helper.make_node("MatMul", ["x", "w"], ["y"])], {"w": np.full((6, 6), value, np.float32)})
    ones = np.ones((1, 6), np.float32)
    calibrator = ek.Calibrator(model, tensors=["x"], progress=False).collect_many([{"x": ones}])
    with pytest.raises(QuantizationError, match="holds NaN or Inf"):
        ek.quantize(model, calibrator.compute_ranges(), ek.QuantConfig(recipe="w8a8"))
