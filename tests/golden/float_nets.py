"""Float models whose programs have golden bytes: an image, a sentence and a sound, each through what such models do."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx

from graphs import Graph


class FloatGraph(Graph):
    """A graph whose weights are floats of about one in size over the square root of what they sum."""

    def floats(self, *shape: int, fan_in: int = 1) -> str:
        return self.const(self.rng.normal(0, fan_in**-0.5, shape), np.float32)

    def conv(self, x: str, out: int, channels: int, kernel: int, *, groups: int = 1, **attributes: Any) -> str:
        weights = self.floats(out, channels // groups, kernel, kernel, fan_in=channels // groups * kernel**2)
        return self.op("Conv", x, weights, self.vector(out), group=groups, **attributes)

    def linear(self, x: str, k: int, n: int) -> str:
        return self.op("Add", self.op("MatMul", x, self.floats(k, n, fan_in=k)), self.vector(n))

    def ints(self, *values: int) -> str:
        return self.const(values, np.int64)


def image() -> onnx.ModelProto:
    """An inverted residual with squeeze and excitation, a grouped and a transposed convolution, pools, a classifier."""
    g = FloatGraph(seed=1901)
    x = g.op("Relu", g.conv(g.input("image", (2, 3, 13, 11)), 18, 3, 3, strides=[2, 2], pads=[1, 1, 1, 1]))
    wide = g.op("HardSwish", g.conv(x, 37, 18, 1))
    deep = g.conv(wide, 37, 37, 3, groups=37, pads=[1, 1, 1, 1])
    norm = [g.vector(37), g.vector(37), g.vector(37), g.const(g.rng.uniform(0.5, 2, 37), np.float32)]
    deep = g.op("Clip", g.op("BatchNormalization", deep, *norm), g.const(0.0, np.float32), g.const(6.0, np.float32))
    squeezed = g.op("Relu", g.conv(g.op("GlobalAveragePool", deep), 9, 37, 1))
    excited = g.op("Mul", deep, g.op("HardSigmoid", g.conv(squeezed, 37, 9, 1)))
    joined = g.op("Add", g.conv(excited, 18, 37, 1), x)
    grouped = g.op("LeakyRelu", g.conv(joined, 24, 18, 3, groups=3, pads=[2, 1, 2, 1], dilations=[2, 1]), alpha=0.1)
    largest = g.op("MaxPool", grouped, kernel_shape=[3, 2], strides=[2, 2], pads=[1, 0, 1, 0])
    average = g.op("AveragePool", grouped, kernel_shape=[2, 3], strides=[2, 2], pads=[0, 1, 1, 1])
    both = g.op("Concat", largest, average, axis=1)
    larger = g.op("ConvTranspose", both, g.floats(48, 5, 3, 3, fan_in=108), g.vector(5), strides=[2, 2])
    sized = g.op("Resize", larger, "", g.const([1, 1, 1.5, 1.25], np.float32), mode="linear")
    flat = g.op("Flatten", g.op("ReduceMax", g.op("Abs", both), g.ints(2, 3), keepdims=1))
    return g.model(sized, g.op("Softmax", g.op("Gemm", flat, g.floats(10, 48, fan_in=48), g.vector(10), transB=1)))


def sentence() -> onnx.ModelProto:
    """A transformer's layer on embedded tokens: attention over a mask, GELU, norms, the scores of the next token."""
    tokens, width, heads, vocabulary = 21, 36, 3, 50
    g = FloatGraph(seed=1902)
    ids = g.op("Mod", g.input("ids", (2, tokens), onnx.TensorProto.INT64), g.ints(vocabulary))
    mask = g.input("mask", (2, 1, 1, tokens), onnx.TensorProto.BOOL)
    x = g.op("Add", g.op("Gather", g.floats(vocabulary, width), ids), g.floats(tokens, width))
    normed = g.op("LayerNormalization", x, g.vector(width), g.vector(width), axis=-1, epsilon=1e-5)

    def split(perm: list[int]) -> str:
        part = g.op("Reshape", g.linear(normed, width, width), g.ints(2, tokens, heads, width // heads))
        return g.op("Transpose", part, perm=perm)

    q, k, v = split([0, 2, 1, 3]), split([0, 2, 3, 1]), split([0, 2, 1, 3])
    scores = g.op("Mul", g.op("MatMul", q, k), g.const((width / heads) ** -0.5, np.float32))
    seen = g.op("Add", scores, g.op("Where", mask, g.const(0.0, np.float32), g.const(-1e9, np.float32)))
    mixed = g.op("Transpose", g.op("MatMul", g.op("Softmax", seen, axis=-1), v), perm=[0, 2, 1, 3])
    x = g.op("Add", x, g.linear(g.op("Reshape", mixed, g.ints(2, tokens, width)), width, width))
    normed = g.op("LayerNormalization", x, g.vector(width), axis=-1, epsilon=1e-5)
    x = g.op("Add", x, g.linear(g.op("Gelu", g.linear(normed, width, 70)), 70, width))
    squares = g.op("Sqrt", g.op("ReduceSumSquare", x, g.ints(-1), keepdims=1))
    logits = g.linear(g.op("Div", x, squares), width, vocabulary)
    return g.model(g.op("LogSoftmax", logits, axis=-1), g.op("ArgMax", logits, axis=-1, keepdims=0))


def sound() -> onnx.ModelProto:
    """A convolution along time, an LSTM of both directions, a GRU and an RNN over rows of different lengths."""
    steps, batch, width, hidden = 11, 3, 20, 18
    g = FloatGraph(seed=1903)
    wave, lengths = g.input("wave", (batch, 5, 23)), g.const([11, 4, 0], np.int32)
    x = g.op("Conv", wave, g.floats(width, 5, 5, fan_in=25), g.vector(width), strides=[2], pads=[1, 1])
    x = g.op("Transpose", g.op("Tanh", x), perm=[2, 0, 1])

    def recurrent(kind: str, x: str, inputs: int, gates: int, directions: int, outputs: int, **more: Any) -> list[str]:
        weights = [g.floats(directions, gates * hidden, k, fan_in=k) for k in (inputs, hidden)]
        bias = g.floats(directions, 2 * gates * hidden)
        return g.op(kind, x, *weights, bias, lengths, outputs=outputs, hidden_size=hidden, **more)

    both, _, cell = recurrent("LSTM", x, width, 4, 2, 3, direction="bidirectional")
    x = g.op("Reshape", g.op("Transpose", both, perm=[0, 2, 1, 3]), g.ints(steps, batch, 2 * hidden))
    backwards, _ = recurrent("GRU", x, 2 * hidden, 3, 1, 2, direction="reverse", linear_before_reset=1)
    _, last = recurrent("RNN", g.op("Squeeze", backwards, g.ints(1)), hidden, 1, 1, 2)
    return g.model(g.op("Sigmoid", g.linear(g.op("Squeeze", last, g.ints(0)), hidden, 7)), g.op("Softplus", cell))


FLOAT_NETS = {"float_image": image, "float_sentence": sentence, "float_sound": sound}
