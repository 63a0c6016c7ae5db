"""Attention as exporters write it, and the networks around it, small."""

from __future__ import annotations

import numpy as np
from onnx import TensorProto, helper, numpy_helper

LOWEST = float(np.finfo(np.float32).min)


class Net:
    """A graph in the making: ``op`` adds a node, ``const`` a constant."""

    def __init__(self, seed=0):
        self.rng = np.random.default_rng(seed)
        self.nodes, self.constants, self.inputs = [], [], []

    def input(self, name, shape, kind=TensorProto.FLOAT):
        self.inputs.append(helper.make_tensor_value_info(name, kind, shape))
        return name

    def const(self, array, dtype=np.float32):
        name = f"c{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(array, dtype), name))
        return name

    def weights(self, *shape):
        return self.const(self.rng.normal(0, shape[0] ** -0.5, shape))

    def op(self, kind, *inputs, outputs=1, **attributes):
        names = [f"v{len(self.nodes)}_{i}" for i in range(outputs)]
        self.nodes.append(helper.make_node(kind, inputs, names, **attributes))
        return names[0] if outputs == 1 else names

    def ints(self, *values):
        return self.const(values, np.int64)

    def reshape(self, x, *shape):
        return self.op("Reshape", x, self.ints(*shape))

    def transpose(self, x, *perm):
        return self.op("Transpose", x, perm=perm)

    def slice(self, x, begin, end, axis):
        return self.op("Slice", x, self.ints(begin), self.ints(end), self.ints(axis))

    def dense(self, x, k, n):
        return self.op("Add", self.op("MatMul", x, self.weights(k, n)), self.const(self.rng.normal(0, 0.1, n)))

    def norm(self, x, width):
        gain, bias = 1 + self.rng.normal(0, 0.1, width), self.rng.normal(0, 0.1, width)
        return self.op("LayerNormalization", x, self.const(gain), self.const(bias))

    def gelu(self, x):
        inner = self.op("Add", self.op("Erf", self.op("Div", x, self.const(2**0.5))), self.const(1))
        return self.op("Mul", self.op("Mul", x, inner), self.const(0.5))

    def model(self, *outputs, opset=20):
        graph = helper.make_graph(
            self.nodes, "net", self.inputs, [helper.make_empty_tensor_value_info(y) for y in outputs], self.constants
        )
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)


B, N, H, D = 2, 6, 2, 4
E = H * D


def heads(net, x, *perm, heads=H):
    """(B, N, E) as heads."""
    return net.transpose(net.reshape(x, 0, 0, heads, D), *perm)


def mix(net, scores, v):
    """What follows scores: softmax, values, heads side by side."""
    mixed = net.op("MatMul", net.op("Softmax", scores, axis=-1), v)
    return net.reshape(net.transpose(mixed, 0, 2, 1, 3), 0, 0, E)


def projected(net, x):
    q, k, v = (net.dense(x, E, E) for _ in range(3))
    return heads(net, q, 0, 2, 1, 3), heads(net, k, 0, 2, 3, 1), heads(net, v, 0, 2, 1, 3)


def scaled_on_both_sides(net, x):
    """torch.nn.functional.scaled_dot_product_attention."""
    q, k, v = projected(net, x)
    root = net.const(D**-0.25)
    scores = net.op("MatMul", net.op("Mul", q, root), net.op("Mul", k, root))
    causal = np.where(np.tri(N, dtype=bool), 0, -np.inf)
    return mix(net, net.op("Add", scores, net.const(causal)), v)


def guarded_against_nan(net, x):
    """The same with a mask of truths, by torch's newer exporter: a row that sees nothing gives zeros."""
    q, k, v = projected(net, x)
    seen = net.input("seen", (B, 1, N, N), TensorProto.BOOL)
    mask = net.op("Where", seen, net.const(0), net.const(-np.inf))
    scores = net.op("Add", net.op("Mul", net.op("MatMul", q, k), net.const(D**-0.5)), mask)
    p = net.op("Softmax", scores, axis=-1)
    p = net.op("Where", net.op("IsNaN", p), net.const(0), p)
    return net.reshape(net.transpose(net.op("MatMul", p, v), 0, 2, 1, 3), 0, 0, E)


def chosen_by_a_mask(net, x):
    """GPT-2: one product split along its columns, Where instead of a sum, and a mask of padding besides."""
    q, k, v = net.op("Split", net.dense(x, E, 3 * E), net.ints(E, E, E), axis=-1, outputs=3)
    q, k, v = heads(net, q, 0, 2, 1, 3), heads(net, k, 0, 2, 3, 1), heads(net, v, 0, 2, 1, 3)
    scores = net.op("Div", net.op("MatMul", q, k), net.const(D**0.5))
    causal = net.const(np.tri(N, dtype=bool)[None, None], np.bool_)
    scores = net.op("Where", causal, scores, net.const(LOWEST))
    return mix(net, net.op("Add", scores, net.input("padding", (B, 1, 1, N))), v)


def hidden_by_a_mask(net, x):
    """The other way round: what is true is hidden, and the mask is data."""
    q, k, v = projected(net, x)
    hidden = net.input("hidden", (B, 1, 1, N), TensorProto.BOOL)
    return mix(net, net.op("Where", hidden, net.const(-1e9), net.op("MatMul", q, k)), v)


def packed_by_split(net, x):
    """timm: one product, whose parts lie along the first axis of a transposition."""
    packed = net.transpose(net.reshape(net.dense(x, E, 3 * E), 0, 0, 3, H, D), 2, 0, 3, 1, 4)
    parts = net.op("Split", packed, net.ints(1, 1, 1), axis=0, outputs=3)
    q, k, v = (net.op("Squeeze", part, net.ints(0)) for part in parts)
    q = net.op("Mul", q, net.const(D**-0.5))
    return mix(net, net.op("MatMul", q, net.transpose(k, 0, 1, 3, 2)), v)


def packed_by_gather(net, x):
    packed = net.transpose(net.reshape(net.dense(x, E, 3 * E), 0, 0, 3, H, D), 2, 0, 3, 1, 4)
    q, k, v = (net.op("Gather", packed, net.const(at, np.int64), axis=0) for at in range(3))
    return mix(net, net.op("Mul", net.op("MatMul", q, net.transpose(k, 0, 1, 3, 2)), net.const(D**-0.5)), v)


def rotated(net, x):
    """LLaMA: rotary embeddings written out, and two heads of queries on one of keys."""
    q = heads(net, net.op("MatMul", x, net.weights(E, E)), 0, 2, 1, 3)
    k, v = (heads(net, net.op("MatMul", x, net.weights(E, D)), 0, 2, 1, 3, heads=1) for _ in range(2))
    angle = np.outer(np.arange(N), 100.0 ** (-np.arange(D // 2) / (D // 2)))
    cos, sin = (net.const(np.concatenate([f(angle)] * 2, axis=-1)[None, None]) for f in (np.cos, np.sin))

    def turned(y):
        half, other = net.slice(y, 0, D // 2, 3), net.slice(y, D // 2, D, 3)
        back = net.op("Concat", net.op("Neg", other), half, axis=-1)
        return net.op("Add", net.op("Mul", y, cos), net.op("Mul", back, sin))

    def shared(y):
        wide = net.op("Expand", net.op("Unsqueeze", y, net.ints(2)), net.ints(B, 1, H, N, D))
        return net.reshape(wide, B, H, N, D)

    scores = net.op("MatMul", turned(q), net.transpose(shared(turned(k)), 0, 1, 3, 2))
    causal = net.const(np.where(np.tri(N, dtype=bool), 0, LOWEST)[None, None])
    return mix(net, net.op("Add", net.op("Mul", scores, net.const(D**-0.5)), causal), shared(v))


def of_three_axes(net, x):
    """torch.nn.MultiheadAttention: batch and heads are one axis, and a mask sees them apart."""
    tokens = net.transpose(x, 1, 0, 2)
    q, k, v = (net.transpose(net.reshape(net.dense(tokens, E, E), N, B * H, D), 1, 0, 2) for _ in range(3))
    scores = net.op("MatMul", net.op("Mul", q, net.const(D**-0.5)), net.transpose(k, 0, 2, 1))
    apart = net.op("Add", net.reshape(scores, B, H, N, N), net.input("padding", (B, 1, 1, N)))
    p = net.op("Softmax", net.reshape(apart, B * H, N, N), axis=-1)
    mixed = net.reshape(net.transpose(net.op("MatMul", p, v), 1, 0, 2), N, B, E)
    return net.transpose(mixed, 1, 0, 2)


def of_older_opsets(net, x):
    """Softmax of opset 12 sees a matrix: as tools convert it, between a Flatten and a Reshape."""
    q, k, v = projected(net, x)
    scores = net.op(
        "Add", net.op("Mul", net.op("MatMul", q, k), net.const(D**-0.5)), net.input("padding", (B, 1, 1, N))
    )
    p = net.op("Softmax", net.op("Flatten", scores, axis=3), axis=-1)
    mixed = net.op("MatMul", net.reshape(p, B, H, N, N), v)
    return net.reshape(net.transpose(mixed, 0, 2, 1, 3), 0, 0, E)


def by_equations(net, x):
    """einsum, heads where the projections leave them; a Dropout that torchvision forgets to switch off."""
    q, k, v = (net.reshape(net.dense(x, E, E), 0, 0, H, D) for _ in range(3))
    scores = net.op("Einsum", net.op("Mul", q, net.const(D**-0.5)), k, equation="bnhd,bmhd->bhnm")
    p = net.op("Softmax", net.op("Add", scores, net.input("padding", (B, 1, 1, N))), axis=-1)
    p = net.op("Dropout", p, net.const(0), net.const(True, np.bool_))
    return net.reshape(net.op("Einsum", p, v, equation="bhnm,bmhd->bnhd"), 0, 0, E)


def by_cosine(net, x):
    """Swin V2: queries and keys of length 1, and a factor that each head has learned."""
    q, k, v = projected(net, x)

    def unit(y, axis):
        length = net.op("ReduceL2", y, net.ints(axis), keepdims=1)
        return net.op("Div", y, net.op("Max", length, net.const(1e-12)))

    scores = net.op("MatMul", unit(q, -1), unit(k, 2))
    scores = net.op("Mul", scores, net.const(net.rng.uniform(1, 9, (1, H, 1, 1))))
    return mix(net, net.op("Add", scores, net.const(net.rng.normal(size=(1, H, N, N)))), v)


SPELLINGS = [
    of_older_opsets,
    by_cosine,
    by_equations,
    scaled_on_both_sides,
    guarded_against_nan,
    chosen_by_a_mask,
    hidden_by_a_mask,
    packed_by_split,
    packed_by_gather,
    rotated,
    of_three_axes,
]


def spelled(spelling):
    net = Net()
    x = net.input("x", (B, N, E))
    return net.model(spelling(net, x))


def layer(net, x, tokens, width, heads, mask=None, windows=1):
    """Norm, attention of packed projections, norm, two products with GELU between; windows are part of the batch."""
    depth, batch = width // heads, windows
    h = net.norm(x, width)
    packed = net.reshape(net.dense(h, width, 3 * width), batch, tokens, 3, heads, depth)
    packed = net.transpose(packed, 2, 0, 3, 1, 4)
    q, k, v = (net.op("Gather", packed, net.const(at, np.int64), axis=0) for at in range(3))
    scores = net.op("MatMul", net.op("Mul", q, net.const(depth**-0.5)), net.transpose(k, 0, 1, 3, 2))
    if windows > 1:  # relative positions
        scores = net.op("Add", scores, net.const(net.rng.normal(0, 0.5, (1, heads, tokens, tokens))))
    if mask is not None:
        apart = net.reshape(scores, 1, windows, heads, tokens, tokens)
        scores = net.reshape(net.op("Add", apart, net.const(mask)), -1, heads, tokens, tokens)
    mixed = net.op("MatMul", net.op("Softmax", scores, axis=-1), v)
    return net.dense(net.reshape(net.transpose(mixed, 0, 2, 1, 3), batch, tokens, width), width, width)


def feed_forward(net, x, width):
    return net.dense(net.gelu(net.dense(net.norm(x, width), width, 2 * width)), 2 * width, width)


def vision_transformer(side=16, patch=4, width=16, heads=2, layers=2, classes=5):
    """Patches by a convolution, a class token, positions, layers, and a head on the token."""
    net = Net()
    image = net.input("image", (1, 3, side, side))
    grid = side // patch
    filters = net.const(net.rng.normal(0, (3 * patch * patch) ** -0.5, (width, 3, patch, patch)))
    x = net.op("Conv", image, filters, net.const(np.zeros(width)), strides=[patch, patch])
    x = net.transpose(net.reshape(x, 1, width, grid * grid), 0, 2, 1)
    token = net.op("Expand", net.const(net.rng.normal(size=(1, 1, width))), net.ints(1, 1, width))
    tokens = grid * grid + 1
    x = net.op("Add", net.op("Concat", token, x, axis=1), net.const(net.rng.normal(0, 0.3, (1, tokens, width))))
    for _ in range(layers):
        x = net.op("Add", x, layer(net, x, tokens, width, heads))
        x = net.op("Add", x, feed_forward(net, x, width))
    first = net.op("Gather", net.norm(x, width), net.const(0, np.int64), axis=1)
    return net.model(net.op("Gemm", first, net.weights(width, classes), net.const(np.zeros(classes))))


def swin_stage(side=8, window=4, width=16, heads=2):
    """Two blocks, the second on shifted windows with its mask, and the merge of patches."""
    net = Net()
    x = net.input("x", (1, side * side, width))
    across, tokens = side // window, window * window
    windows = across * across

    def into_windows(y):
        y = net.transpose(net.reshape(y, 1, across, window, across, window, width), 0, 1, 3, 2, 4, 5)
        return net.reshape(y, -1, tokens, width)

    def out_of_windows(y):
        y = net.transpose(net.reshape(y, 1, across, across, window, window, width), 0, 1, 3, 2, 4, 5)
        return net.reshape(y, 1, side, side, width)

    def rolled(y, by):
        for axis in (1, 2):
            y = net.op("Concat", net.slice(y, by % side, side, axis), net.slice(y, 0, by % side, axis), axis=axis)
        return y

    regions = np.zeros((side, side))
    for number, (rows, columns) in enumerate(
        (a, b) for a in ((0, -4), (-4, -2), (-2, None)) for b in ((0, -4), (-4, -2), (-2, None))
    ):
        regions[slice(*rows), slice(*columns)] = number
    regions = regions.reshape(across, window, across, window).transpose(0, 2, 1, 3).reshape(windows, tokens)
    mask = np.where(regions[:, None] == regions[:, :, None], 0, -100.0)[None, :, None]
    for shift in (0, window // 2):
        image = net.reshape(x, 1, side, side, width)
        y = into_windows(rolled(image, shift) if shift else image)
        y = layer(net, y, tokens, width, heads, mask if shift else None, windows)
        y = out_of_windows(y)
        y = rolled(y, -shift) if shift else y
        x = net.op("Add", x, net.reshape(y, 1, side * side, width))
        x = net.op("Add", x, feed_forward(net, x, width))
    image = net.reshape(x, 1, side, side, width)
    steps = [(0, 0), (1, 0), (0, 1), (1, 1)]
    corners = [
        net.op("Slice", image, net.ints(*at), net.ints(side, side), net.ints(1, 2), net.ints(2, 2)) for at in steps
    ]
    merged = net.reshape(net.op("Concat", *corners, axis=-1), 1, side * side // 4, 4 * width)
    return net.model(net.op("MatMul", net.norm(merged, 4 * width), net.weights(4 * width, 2 * width)))


def decoder(width=16, heads=2, words=11):
    """One step of a decoder as exporters give it: keys and values come in, and go out with the new ones behind."""
    net, depth = Net(), width // heads
    ids = net.input("input_ids", ("batch", "sequence"), TensorProto.INT64)
    past = [net.input(f"past_key_values.0.{part}", ("batch", heads, "past", depth)) for part in ("key", "value")]
    seen = net.input("attention_mask", ("batch", "total"), TensorProto.INT64)
    x = net.op("Gather", net.const(net.rng.normal(size=(words, width))), ids)
    q, *new = (
        net.transpose(net.reshape(net.op("MatMul", x, net.weights(width, width)), 0, 0, heads, depth), 0, 2, 1, 3)
        for _ in range(3)
    )
    k, v = (net.op("Concat", old, added, axis=2) for old, added in zip(past, new, strict=True))
    seen = net.op("Unsqueeze", net.op("Cast", seen, to=TensorProto.FLOAT), net.ints(1, 2))
    hidden = net.op("Mul", net.op("Sub", net.const(1), seen), net.const(LOWEST))
    scores = net.op("Mul", net.op("MatMul", q, net.transpose(k, 0, 1, 3, 2)), net.const(depth**-0.5))
    mixed = net.op("MatMul", net.op("Softmax", net.op("Add", scores, hidden), axis=-1), v)
    y = net.reshape(net.transpose(mixed, 0, 2, 1, 3), 0, 0, width)
    return net.model(net.op("MatMul", y, net.weights(width, words)), k, v)


def root_mean_square(net, x, width, written):
    """RMSNorm: divided by the root, times 1 / root, or times its Reciprocal."""
    gain = net.const(1 + net.rng.normal(0, 0.1, width))
    square = net.op("Pow", x, net.const(2)) if written == "Div" else net.op("Mul", x, x)
    mean = net.op("ReduceMean", square, net.ints(-1), keepdims=1)
    root = net.op("Sqrt", net.op("Add", mean, net.const(1e-5)))
    if written == "Div":
        return net.op("Mul", net.op("Div", x, root), gain)
    inverse = net.op("Reciprocal", root) if written == "Reciprocal" else net.op("Div", net.const(1), root)
    return net.op("Mul", gain, net.op("Mul", x, inverse))


def llama_layer(written="Reciprocal"):
    """Norms, grouped heads on rotated queries and keys, and a gate of SiLU."""
    net = Net()
    x = net.input("x", (B, N, E))
    y = net.op("Add", x, net.op("MatMul", rotated(net, root_mean_square(net, x, E, written)), net.weights(E, E)))
    h = root_mean_square(net, y, E, written)
    gate = net.op("MatMul", h, net.weights(E, 2 * E))
    gated = net.op("Mul", net.op("Mul", gate, net.op("Sigmoid", gate)), net.op("MatMul", h, net.weights(E, 2 * E)))
    return net.model(net.op("Add", y, net.op("MatMul", gated, net.weights(2 * E, E))))
