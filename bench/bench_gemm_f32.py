"""float32 products beside their peers: ``python -m bench gemm_f32 [--threads 1 2] [--json run.json]``.

MatMul of an input and a constant as a program of one step, which is how a layer kept in float32 runs; the limit is
fused multiply-adds on registers. Peers are onnxruntime and OpenVINO on the same model, NumPy's BLAS and torch.
"""

from collections.abc import Iterator, Sequence
from functools import partial

import numpy as np

import edgekern as ek
from bench import onnx_models
from bench.harness import Contender, Row
from bench.peers import Array, Check, close, join, numpy_float, onnxruntime, openvino
from bench.shapes import GEMM_SHAPES, TINY_SHAPES, Shape
from bench.suite import Case, Plan, Result, geometric_mean, parser, peak_percent, run
from edgekern import _core

# Rounding of a float32 chain of thousands of terms, relative to the root mean square of the result.
NOISE = 1e-5
# From so many rows, columns and depth on a product is bound by multiply-adds alone.
LARGE = 512


def _ours(model: bytes, x: Array, threads: int, check: Check) -> Contender:
    session = ek.InferenceSession(ek.compile(model, allow_host=False), num_threads=threads)
    feeds = {"x": x}
    return Contender("edgekern", partial(session.run, None, feeds, out=session.run(None, feeds)), check)


def _torch(x: Array, w: Array, check: Check) -> Contender:
    import torch

    left, right = torch.from_numpy(x), torch.from_numpy(w)
    out = torch.empty((x.shape[0], w.shape[1]))
    return Contender("torch", partial(torch.mm, left, right, out=out), check)


def contenders(shape: Shape, threads: int) -> list[Contender]:
    rng = np.random.default_rng([shape.m, shape.n, shape.k])
    x, w = (rng.standard_normal(sides, np.float32) for sides in ((shape.m, shape.k), (shape.k, shape.n)))
    expected = x.astype(np.float64) @ w.astype(np.float64)
    check, model = close(expected, NOISE), onnx_models.matmul(x, w)
    return [
        _ours(model, x, threads, check),
        *join(
            ("onnxruntime", lambda: onnxruntime("onnxruntime", model, {"x": x}, threads, check)),
            ("openvino", lambda: openvino("openvino", model, {"x": x}, threads, check, precision="f32")),
            ("torch", lambda: _torch(x, w, check)),
            ("numpy", lambda: numpy_float("numpy", x, [w], [expected])),
        ),
    ]


def _case(shape: Shape, threads: int) -> Case:
    return Case("18 shapes", str(shape), contenders(shape, threads), shape.operations)


def cases(threads: int, *, quick: bool) -> Iterator[Plan]:
    for shape in TINY_SHAPES if quick else GEMM_SHAPES:
        yield str(shape), partial(_case, shape, threads)


def figures(results: Sequence[Result]) -> Row:
    """Shares of the fused multiply-add peak where nothing else binds."""
    large = {str(shape) for shape in GEMM_SHAPES if min(shape.m, shape.n, shape.k) >= LARGE}
    shares = [peak_percent(row) or 0.0 for row in results if row.case.name in large]
    return {f"% of the peak, all sides >= {LARGE}": geometric_mean(shares), "lowest": min(shares, default=None)}


def main(argv: Sequence[str]) -> int:
    options = parser("gemm_f32", __doc__).parse_args(argv)
    run("gemm_f32", options, lambda threads: cases(threads, quick=options.quick), figures, _core.measure_fma_peak)
    return 0
