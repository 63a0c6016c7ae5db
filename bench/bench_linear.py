"""Quantized linear layers beside their peers: ``python -m bench linear [--threads 1 2] [--json run.json]``.

Two kinds, int8 weights with a scale a column, and a bias. Dynamic: float32 in and out, activations quantized in the
call; peers are torch's dynamic linear on both engines, onnxruntime (DynamicQuantizeLinear, MatMulInteger, Cast, Mul,
Add) and NumPy in float32. Static: uint8 in and out with known scales; peers are torch's quantized linear on both
engines, onnxruntime's QLinearMatMul (which adds no bias) and OpenVINO on the QDQ model. Decode shapes are measured warm
and with weights from memory, for everyone.
"""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np

import edgekern as ek
from bench import onnx_models, torch_peers
from bench.harness import Contender, in_turn
from bench.peers import Array, close, join, numpy_float, on_lines, onnxruntime, openvino, rolled, within_one_step
from bench.shapes import DECODE_ROWS, GEMM_SHAPES, TINY_SHAPES, Shape
from bench.suite import Case, Plan, copies_beyond_cache, parser, run

# Rounding activations to 8 bits costs about one percent of the signal.
DYNAMIC_NOISE = 0.03
X_SCALE, ZERO_POINT = 0.02, 128


def _weights(shape: Shape, copies: int, rng: np.random.Generator) -> tuple[list[Array], Array, Array]:
    weights = rolled(rng.integers(-128, 128, (shape.k, shape.n), dtype=np.int8), copies)
    scale = rng.uniform(0.5, 1.5, shape.n).astype(np.float32) / np.float32(74 * np.sqrt(shape.k))
    return weights, scale, rng.normal(size=shape.n).astype(np.float32)


def _ours(x: Array, weights: Sequence[Array], scale: Array, check: Any, **settings: Any) -> Contender:
    packed = [ek.pack_weights(w, scale=scale) for w in weights]
    result = ek.linear(x, packed[0], **settings)
    pairs = [(w, on_lines(result.shape, result.dtype)) for w in packed]
    return Contender(
        "edgekern",
        in_turn([partial(ek.linear, x, w, out=y, **settings) for w, y in pairs]),
        check,
        len(pairs),
        pairs[0][0].nbytes,
    )


def dynamic(shape: Shape, threads: int, copies: int = 1) -> list[Contender]:
    rng = np.random.default_rng([shape.m, shape.n, shape.k])
    x = rng.normal(size=(shape.m, shape.k)).astype(np.float32)
    weights, scale, bias = _weights(shape, copies, rng)
    expected = [product * scale + bias for product in rolled(x @ weights[0].astype(np.float32), copies)]
    check, read = close(expected, DYNAMIC_NOISE), shape.k * shape.n
    torch = partial(torch_peers.dynamic, x, weights, scale, bias, check=check)
    model = partial(onnx_models.dynamic_linear, x, weights, scale, bias)
    floats = [w * scale for w in weights]
    return [
        _ours(x, weights, scale, check, bias=bias, num_threads=threads),
        *join(
            ("torch", lambda: torch("torch_x86", engine="x86")),
            ("torch", lambda: torch("torch_onednn", engine="onednn")),
            (
                "onnxruntime",
                lambda: onnxruntime("ort_dynamic", model(), {"x": x}, threads, check, calls=copies, read_bytes=read),
            ),
            ("numpy", lambda: numpy_float("numpy_f32", x, floats, [y - bias for y in expected])),
        ),
    ]


def static(shape: Shape, threads: int, copies: int = 1) -> list[Contender]:
    rng = np.random.default_rng([shape.m, shape.n, shape.k])
    x = rng.integers(0, 256, (shape.m, shape.k), dtype=np.uint8)
    weights, scale, bias = _weights(shape, copies, rng)
    real = (x.astype(np.float64) - ZERO_POINT) * X_SCALE
    products = [product * scale for product in rolled(real @ weights[0].astype(np.float64), copies)]
    y_scale = float(np.float32(max(float(products[0].std()), 1e-3) / 40))
    with_bias, without = ([_steps(y + b, y_scale) for y in products] for b in (bias, 0.0))
    scales, zero_points, read = (X_SCALE, scale, y_scale), (ZERO_POINT, ZERO_POINT), shape.k * shape.n
    check = within_one_step(with_bias)
    torch = partial(torch_peers.static, x, weights, scales, zero_points, check=check, bias=bias)
    settings = {"x_scale": X_SCALE, "x_zero_point": ZERO_POINT, "y_scale": y_scale, "y_zero_point": ZERO_POINT}
    session: dict[str, Any] = {"feeds": {"x": x}, "threads": threads, "calls": copies, "read_bytes": read}
    qlinear = partial(onnx_models.qlinear_matmul, x, weights, scales, zero_points)
    qdq = partial(onnx_models.qdq_linear, x, weights, scales, zero_points, bias)
    return [
        _ours(x, weights, scale, check, bias=bias, num_threads=threads, **settings),
        *join(
            ("torch", lambda: torch("torch_x86", engine="x86")),
            ("torch", lambda: torch("torch_onednn", engine="onednn")),
            ("onnxruntime", lambda: onnxruntime("ort_qlinear", qlinear(), check=within_one_step(without), **session)),
            ("openvino", lambda: openvino("openvino_qdq", qdq(), check=check, **session)),
        ),
    ]


def _steps(real: Array, scale: float) -> Array:
    steps: Array = np.clip(np.rint(real / scale) + ZERO_POINT, 0, 255)
    return steps


def _case(shape: Shape, group: str, kind: str, threads: int, copies: int) -> Case:
    everyone = (dynamic if kind == "dynamic" else static)(shape, threads, copies)
    return Case(f"{kind}, {group}", str(shape), everyone, shape.operations, rotated=copies > 1)


def cases(threads: int, *, quick: bool) -> Iterator[Plan]:
    for kind in ("dynamic", "static"):
        for shape in TINY_SHAPES if quick else GEMM_SHAPES:
            yield str(shape), partial(_case, shape, "warm", kind, threads, 1)
        for shape in TINY_SHAPES if quick else GEMM_SHAPES:
            if shape.m <= DECODE_ROWS:
                copies = 3 if quick else copies_beyond_cache(shape.k * shape.n)
                yield str(shape), partial(_case, shape, "weights from memory", kind, threads, copies)


def main(argv: Sequence[str]) -> int:
    options = parser("linear", __doc__).parse_args(argv)
    run("linear", options, lambda threads: cases(threads, quick=options.quick))
    return 0
