"""Writes the golden programs: ``python tests/golden/make.py``, when the format or what an operator is changes.

every_step.ekm has every kind of step on 8 bits, float_*.ekm are whole float models. Beside each lie the bytes of its
inputs, one array behind the other, and those of the outputs that every machine must give; they come from
tests/reference, not from the core.
"""

import sys
from pathlib import Path

import numpy as np

FOLDER = Path(__file__).resolve().parent
sys.path.insert(0, str(FOLDER.parent))

import edgekern as ek  # noqa: E402

from golden.float_nets import FLOAT_NETS  # noqa: E402
from graphs import S8, Graph, feeds_of  # noqa: E402
from reference.program import run_program  # noqa: E402


def golden_model():
    """Two inputs, one image and one matrix, through every kind of step, of both signs and odd sizes."""
    g = Graph(seed=42)
    x = g.qdq(g.input("image", (2, 5, 11, 9)))
    wide = g.qdq(g.op("Relu", g.op("Conv", x, g.weights(24, 5, 3, 3), g.vector(24), pads=[1, 1, 1, 1])), 0.2, 0)
    deep = g.qdq(g.op("Conv", wide, g.weights(24, 1, 3, 3), g.vector(24), group=24, pads=[1, 1, 1, 1]), 0.3)
    grouped = g.qdq(g.op("Conv", deep, g.weights(24, 8, 1, 3), group=3, pads=[0, 1, 0, 1]), 0.6, dtype=S8)
    back = g.qdq(g.op("Conv", grouped, g.weights(24, 24, 1, 1), g.vector(24)), 0.9)
    joined = g.qdq(g.op("Relu", g.op("Add", back, wide)), 0.8, 0)
    smooth = g.qdq(g.op("HardSwish", joined), 0.7, 2)
    pooled = g.qdq(g.op("MaxPool", smooth, kernel_shape=[3, 2], strides=[2, 2], pads=[1, 0, 1, 0]), 0.7, 2)
    average = g.qdq(g.op("AveragePool", smooth, kernel_shape=[3, 2], strides=[2, 2], pads=[1, 0, 1, 0]), 0.5, 2)
    both = g.qdq(g.op("Concat", pooled, average, axis=1), 0.7, 2)
    cut = g.op("Slice", both, *(g.const(part, np.int64) for part in ([1, 4], [6, 44], [2, 1], [2, 1])))
    framed = g.op("Pad", cut, g.const([0, 0, 1, 0, 0, 1, 0, 1], np.int64))
    turned = g.qdq(g.op("Transpose", framed, perm=[0, 1, 3, 2]), 0.7, 2)
    again = g.qdq(g.op("Add", turned, g.qdq(g.op("Sigmoid", turned), 1 / 255, 0)), 1.1)
    mean = g.op("Flatten", g.qdq(g.op("GlobalAveragePool", again), 0.1, 9))
    head = g.op("Gemm", mean, g.weights(10, 41), g.vector(10), transB=1)
    matrix = g.qdq(g.input("matrix", (7, 130)), dtype=S8)
    product = g.op("MatMul", matrix, g.weights(130, 70, axis=1))
    return g.model(head, again, g.qdq(product, 0.9, dtype=S8))


MODELS = {"every_step": golden_model, **FLOAT_NETS}


def main() -> None:
    for name, build in MODELS.items():
        model = build()
        program = ek.compile(model, allow_host=False)
        feeds = feeds_of(model, seed=20261121)
        inputs = [feeds[info.name] for info in program.inputs]
        outputs = run_program(program.index, program.container.blobs, inputs)
        program.save(FOLDER / f"{name}.ekm")
        for part, arrays in (("inputs", inputs), ("outputs", outputs)):
            (FOLDER / f"{name}.{part}").write_bytes(b"".join(array.tobytes() for array in arrays))
        print(program.summary())


if __name__ == "__main__":
    main()
