"""Models with free dimensions, and what is fed to them."""

import numpy as np
from onnx import TensorProto

import edgekern as ek

from float_models import ranges_of, samples, small_cnn
from graphs import Graph

BATCHES = (1, 2, 4)
LENGTHS = (4, 9, 16)


def cnn(batch="N"):
    model = small_cnn()
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_param = batch
    return model


def quantized_cnn():
    return ek.quantize(cnn(), ranges_of(cnn(), samples(np.random.default_rng(0))))


def encoder(*, masked=True, pooled=False, dynamic=False):
    """Embeddings with places, one layer of attention under a mask, and a mean or every token."""
    g = Graph(seed=3, opset=17)
    ids = g.input("ids", ["batch", "length"], TensorProto.INT64)
    mask = g.input("mask", ["batch", "length"], TensorProto.INT64) if masked else None
    x = g.op("Gather", g.const(g.rng.normal(size=(9, 16)), np.float32), ids)
    places = g.op(
        "Slice", g.const(g.rng.normal(size=(32, 16)), np.float32), g.const([0]), *_length(g, ids), g.const([0])
    )
    x = g.op("Add", x, places)
    q, k, v = (g.op("MatMul", x, g.const(g.rng.normal(size=(16, 16)) / 4, np.float32)) for _ in range(3))
    scores = g.op("MatMul", q, g.op("Transpose", k, perm=[0, 2, 1]))
    if mask is not None:
        seen = g.op("Cast", mask, to=TensorProto.FLOAT)
        hidden = g.op("Mul", g.op("Sub", g.const(1, np.float32), seen), g.const(-1e4, np.float32))
        scores = g.op("Add", scores, g.op("Unsqueeze", hidden, g.const([1])))
    y = g.op("MatMul", g.op("Softmax", scores, axis=-1), v)
    if dynamic:
        y = g.op("DequantizeLinear", *g.op("DynamicQuantizeLinear", y, outputs=3))
    if pooled and mask is not None:
        seen = g.op("Unsqueeze", g.op("Cast", mask, to=TensorProto.FLOAT), g.const([2]))
        total = g.op("ReduceSum", g.op("Mul", y, seen), g.const([1]), keepdims=0)
        y = g.op("Div", total, g.op("ReduceSum", seen, g.const([1]), keepdims=0))
    elif pooled:
        y = g.op("ReduceMean", y, axes=[1], keepdims=0)
    return g.model(y)


def _length(g, ids):
    return [g.op("Gather", g.op("Shape", ids), g.const([1]))]


def text(rows, length, seed=0):
    rng = np.random.default_rng(seed)
    mask = rng.integers(0, 2, (rows, length))
    mask[:, 0] = 1
    return {"ids": rng.integers(0, 9, (rows, length)), "mask": mask}


def same(wanted, got):
    assert [(a.dtype, a.shape) for a in wanted] == [(b.dtype, b.shape) for b in got]
    for a, b in zip(wanted, got, strict=True):
        assert a.tobytes() == b.tobytes()
