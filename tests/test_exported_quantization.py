"""QDQ as training and compression tools export it: every product of a file is multiplied on 8 bits."""

import ml_dtypes
import numpy as np
import onnx
import pytest

import edgekern as ek
from test_float_nets import feeds_of, kinds

from graphs import S8, U8, Graph, onnxruntime_session, results_everywhere


class Export(Graph):
    """A graph whose weights and activations are quantized in the ways of several tools."""

    def vector_of_one(self, value, dtype):
        return self.const([value], dtype)

    def fake_quantized(self, x, scale, zero=0, dtype=S8, axis=None, limits=None):
        """Q, a Clip of the codes where the tool has fewer of them, and DQ; ``x`` may be a float constant."""
        shape = () if axis is None else np.shape(scale)
        zeros = self.op("Cast", self.const(np.full(shape, zero, np.int32)), to=_kind(dtype))  # as torch has them
        parameters = self.const(scale, np.float32), zeros
        along = {} if axis is None else {"axis": axis}
        q = self.op("QuantizeLinear", x, *parameters, **along)
        if limits is not None:
            q = self.op("Clip", q, *(self.const(limit, dtype) for limit in limits))
        return self.op("DequantizeLinear", q, *parameters, **along)

    def float_weights(self, *shape, axis, limits=None):
        w = self.rng.normal(0, 0.2, shape).astype(np.float32)
        others = tuple(at for at in range(len(shape)) if at != axis)
        scale = np.abs(w).max(axis=others) / (limits[1] if limits else 127)
        return self.fake_quantized(self.const(w), scale, axis=axis, limits=limits)

    def stored_weights(self, *shape, axis):
        scale = self.rng.uniform(0.001, 0.003, shape[axis])
        values = self.const(self.rng.integers(-127, 128, shape), S8)
        return self.op("DequantizeLinear", values, self.const(scale, np.float32), axis=axis)


def _kind(dtype):
    return onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype))


def nncf_cnn():
    """Float weights behind Q and DQ, activations of either sign, a float bias; the Add of two quantized branches."""
    g = Export(seed=1)
    x = g.fake_quantized(g.input("x", (2, 3, 9, 9)), 0.03, 128, U8)
    y = g.op("Relu", g.op("Conv", x, g.float_weights(8, 3, 3, 3, axis=0), g.vector(8), pads=[1, 1, 1, 1]))
    y = g.fake_quantized(y, 0.02, -128, S8)
    z = g.op("Conv", y, g.float_weights(8, 1, 3, 3, axis=0), g.vector(8), group=8, pads=[1, 1, 1, 1])
    total = g.fake_quantized(g.op("Add", y, g.fake_quantized(z, 0.03, 3, S8)), 0.04, -5, S8)
    pooled = g.fake_quantized(g.op("GlobalAveragePool", total), 0.02, -128, S8)
    return g.model(g.op("Gemm", g.op("Flatten", pooled), g.float_weights(10, 8, axis=0), g.vector(10), transB=1))


def nncf_transformer():
    """MatMul by (k, n) weights with scales along the columns, a bias added behind, and a quantized residual."""
    g = Export(seed=2)
    x = g.fake_quantized(g.input("x", (2, 7, 24)), 0.02, 120, U8)
    h = g.op("Gelu", g.op("Add", g.op("MatMul", x, g.float_weights(24, 48, axis=1)), g.vector(48)))
    h = g.fake_quantized(h, 0.02, 20, U8)
    y = g.op("Add", g.op("MatMul", h, g.float_weights(48, 24, axis=1)), g.vector(24))
    return g.model(g.op("Add", y, x))


def torch_fbgemm():
    """reduce_range: activations of 7 bits, by a Clip between Q and DQ."""
    g = Export(seed=3)
    x = g.fake_quantized(g.input("x", (1, 3, 8, 8)), 0.05, 60, U8, limits=(0, 127))
    y = g.op("Relu", g.op("Conv", x, g.float_weights(6, 3, 3, 3, axis=0, limits=(-127, 127)), g.vector(6)))
    y = g.fake_quantized(y, 0.03, 0, U8, limits=(0, 127))
    y = g.fake_quantized(g.op("MaxPool", y, kernel_shape=[2, 2], strides=[2, 2]), 0.03, 0, U8, limits=(0, 127))
    z = g.op("Gemm", g.op("Flatten", y), g.float_weights(5, 54, axis=0, limits=(-127, 127)), g.vector(5), transB=1)
    return g.model(g.fake_quantized(z, 0.1, 64, U8, limits=(0, 127)))


def brevitas_4_bits():
    """Four bits in bytes: weights and activations are clipped to them."""
    g = Export(seed=4)
    x = g.fake_quantized(g.input("x", (1, 4, 8, 8)), 0.5, 0, S8, limits=(-8, 7))
    y = g.op("Relu", g.op("Conv", x, g.float_weights(6, 4, 3, 3, axis=0, limits=(-7, 7)), g.vector(6)))
    y = g.fake_quantized(y, 0.3, 0, U8, limits=(0, 15))
    return g.model(g.op("Conv", y, g.float_weights(3, 6, 1, 1, axis=0, limits=(-7, 7))))


def torch_linear():
    """A Linear's weights (n, k), turned behind their DQ; what follows is a float sum."""
    g = Export(seed=5)
    x = g.fake_quantized(g.input("x", (5, 24)), 0.02, 120, U8)
    turned = g.op("Transpose", g.stored_weights(10, 24, axis=0), perm=[1, 0])
    return g.model(g.op("Add", g.op("MatMul", x, turned), g.vector(10)))


def reshaped_weights():
    """A Linear as a 1 x 1 convolution, and a filter whose axes of one element come and go."""
    g = Export(seed=6)
    x = g.fake_quantized(g.input("x", (1, 8, 6, 5)), 0.03, 100, U8)
    first = g.op("Reshape", g.stored_weights(12, 8, axis=0), g.const([12, 8, 1, 1], np.int64))
    second = g.op("Unsqueeze", g.stored_weights(12, 8, axis=0), g.const([2, 3], np.int64))
    return g.model(g.op("Conv", x, first), g.op("Conv", x, second, g.vector(12)))


def vectors_of_one():
    """Parameters of whole tensors as vectors of one element, and a bias in int32."""
    g = Export(seed=7)
    scale, zero = g.const([0.02], np.float32), g.const([120], U8)
    x = g.op("DequantizeLinear", g.op("QuantizeLinear", g.input("x", (3, 24)), scale, zero), scale, zero)
    w_scale, w_zero = g.const([0.01], np.float32), g.const([0], S8)
    w = g.op("DequantizeLinear", g.const(g.rng.integers(-127, 128, (24, 9)), S8), w_scale, w_zero)
    both = g.const([np.float32(0.02) * np.float32(0.01)], np.float32)
    bias = g.op("DequantizeLinear", g.const(g.rng.integers(-999, 999, 9), np.int32), both)
    return g.model(g.op("Gemm", x, w, bias))


def weights_of_4_bits(dtype):
    """As opset 21 stores them."""
    g = Export(seed=8)
    x = g.fake_quantized(g.input("x", (3, 24)), 0.02, 120, U8)
    info = ml_dtypes.iinfo(dtype)
    values, zero = (
        g.const(g.rng.integers(int(info.min), int(info.max) + 1, shape).astype(dtype)) for shape in ((24, 9), 9)
    )
    scale = g.const(g.rng.uniform(0.02, 0.05, 9), np.float32)
    return g.model(g.op("MatMul", x, g.op("DequantizeLinear", values, scale, zero, axis=1)))


MODELS = {
    **{build.__name__: build for build in (nncf_cnn, nncf_transformer, torch_fbgemm, brevitas_4_bits, torch_linear)},
    **{build.__name__: build for build in (reshaped_weights, vectors_of_one)},
    "int4": lambda: weights_of_4_bits(ml_dtypes.int4),
    "uint4": lambda: weights_of_4_bits(ml_dtypes.uint4),
}


@pytest.mark.parametrize("name", MODELS)
def test_a_file_of_another_tool_multiplies_on_8_bits_alone(name):
    model = MODELS[name]()
    program = ek.compile(model, allow_host=False)
    assert "multiply-adds: 100.0% in 8 bits" in program.summary()
    assert "MAP_I64" not in kinds(program)  # nothing is done to codes one by one
    feeds = feeds_of(model)
    for found, want in zip(
        results_everywhere(program, feeds), onnxruntime_session(model, optimized=False).run(None, feeds), strict=True
    ):
        error = np.abs(found - want)
        assert error.max() <= np.ptp(want) / 10
        assert error.mean() <= np.ptp(want) / 300
