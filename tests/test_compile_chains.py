"""Hypothesis builds the models: any convolution, any chain of operators, against the NumPy reference bit for bit."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

import edgekern as ek

from graphs import S8, U8, Graph, feeds_of, onnxruntime_session
from qdq_models import conv_model, image
from reference.program import run_program


def run(program: ek.Program, feeds):
    return ek.InferenceSession(program).run(None, feeds)


@st.composite
def convolutions(draw):
    group, per_group = draw(st.integers(1, 3)), draw(st.integers(1, 9))
    kernel = draw(st.tuples(st.integers(1, 4), st.integers(1, 4)))
    dilation = draw(st.tuples(st.integers(1, 2), st.integers(1, 2)))
    pads = draw(st.tuples(*[st.integers(0, 3)] * 4))
    least = [
        max(1, d * (k - 1) + 1 - pads[i] - pads[i + 2]) for i, (k, d) in enumerate(zip(kernel, dilation, strict=True))
    ]
    size = tuple(draw(st.integers(side, side + 6)) for side in least)
    out = group * draw(st.integers(1, 20))
    return conv_model(
        *(out, per_group, *kernel),
        channels=group * per_group,
        size=size,
        batch=draw(st.integers(1, 2)),
        group=group,
        pads=list(pads),
        dilations=list(dilation),
        strides=list(draw(st.tuples(st.integers(1, 3), st.integers(1, 3)))),
    )


@given(model=convolutions(), seed=st.integers(0, 99))
def test_any_convolution_equals_the_reference(model, seed):
    program, feeds = ek.compile(model, allow_host=False), feeds_of(model, seed)
    [expected] = run_program(program.index, program.container.blobs, [feeds["x"]])
    np.testing.assert_array_equal(run(program, feeds)[0], expected)
    [truth] = onnxruntime_session(model, optimized=False).run(None, feeds)
    assert np.abs(expected - truth).max() <= 0.3 * 1.001


@st.composite
def chains(draw):
    """Operators one behind the other and beside each other, each with QuantizeLinear and DequantizeLinear behind it."""
    g = Graph(draw(st.integers(0, 999)))
    dtype = draw(st.sampled_from([U8, S8]))
    scale = 0.05
    x = image(g, 1, 6, 8, 8, dtype=dtype)
    shape, earlier = [1, 6, 8, 8], []
    for kind in draw(st.lists(st.sampled_from(sorted(LINKS)), min_size=1, max_size=7)):
        alike = [value for value, other in earlier if other == shape]
        earlier.append((x, shape))
        y, shape = LINKS[kind](g, x, shape, alike)
        if draw(st.booleans()) or kind not in BARE:
            scale = draw(st.sampled_from([other for other in SCALES if other != scale]))
            y = g.qdq(y, scale, dtype=dtype)
        x = y
    if draw(st.booleans()):
        x = g.op("Gemm", g.op("Flatten", x), g.weights(int(np.prod(shape)), 7, axis=1))
    return g.model(x), scale


def _link(kind, result=lambda shape: shape, **attributes):
    return lambda g, x, shape, earlier: (g.op(kind, x, **attributes), result(shape))


def _conv_link(g, x, shape, earlier):
    w = g.op("DequantizeLinear", g.const(g.rng.integers(-9, 9, (6, shape[1], 3, 3)), S8), g.const(0.01, np.float32))
    return g.op("Conv", x, w, g.vector(6), pads=[1, 1, 1, 1]), [1, 6, *shape[2:]]


def _add_link(g, x, shape, earlier):
    return g.op("Add", x, earlier[0] if earlier else x), shape


def _concat_link(g, x, shape, earlier):
    return g.op("Concat", x, x, axis=1), [1, 2 * shape[1], *shape[2:]]


def _slice_link(g, x, shape, earlier):
    return g.op("Slice", x, *(g.const(part, np.int64) for part in ([1], [9999], [1]))), [1, shape[1] - 1, *shape[2:]]


def _fold_link(g, x, shape, earlier):
    side = [1, shape[1] * 2, shape[2], shape[3] // 2] if shape[3] % 2 == 0 else shape
    return g.op("Reshape", x, g.const(side, np.int64)), side


SCALES = (0.05, 0.0613, 0.0977, 0.1381)  # no simple ratios, so few ties
BARE = {"max", "relu", "concat", "slice", "reshape", "transpose"}  # exact on bytes: no QuantizeLinear has to follow
LINKS = {
    "conv": _conv_link,
    "add": _add_link,
    "concat": _concat_link,
    "slice": lambda g, x, shape, e: _slice_link(g, x, shape, e) if shape[1] > 1 else (g.op("Relu", x), shape),
    "reshape": _fold_link,
    "relu": _link("Relu"),
    "tanh": _link("Tanh"),
    "max": _link("MaxPool", kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
    "average": _link("AveragePool", kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
    "transpose": _link("Transpose", lambda shape: [shape[i] for i in (0, 2, 3, 1)], perm=[0, 2, 3, 1]),
}


@given(made=chains())
def test_any_chain_of_operators_equals_the_reference(made):
    """Fusing, folding, layouts and the memory plan: no combination of them changes a bit."""
    model, scale = made
    program, feeds = ek.compile(model, allow_host=False), feeds_of(model)
    [expected] = run_program(program.index, program.container.blobs, [feeds["x"]])
    np.testing.assert_array_equal(run(program, feeds)[0], expected)
    [truth] = onnxruntime_session(model, optimized=False).run(None, feeds)
    assert expected.shape == truth.shape
    if len(truth.shape) == 4:  # ties and rounded biases fall the other way, and are carried on and added to themselves
        assert np.mean(np.abs(expected - truth)) <= 0.25 * scale
