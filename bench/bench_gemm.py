"""Integer GEMM beside its peers: ``python -m bench gemm [--threads 1 2] [--only 64x64x64 ...] [--json run.json]``.

edgekern multiplies uint8 and int8 activations by packed int8 weights into int32 ``out=``; the slower of the two counts.
torch runs ``_int_mm`` (int32) and quantized linear (8 bit) on both engines, onnxruntime MatMulInteger (int32) and
QLinearMatMul (8 bit), NumPy the float32 product; OpenVINO has no integer product (it multiplies MatMulInteger in
float32) and stands in ``linear``. Integer results must be exact. Decode shapes are measured twice: warm, and rotated
through more weights than the last-level cache holds, for everyone.
"""

from collections.abc import Iterator, Sequence
from functools import partial

import numpy as np

import edgekern as ek
from bench import onnx_models, torch_peers
from bench.harness import Contender, in_turn
from bench.peers import Array, equals, join, numpy_float, on_lines, onnxruntime, rolled, within_one_step
from bench.shapes import DECODE_ROWS, GEMM_SHAPES, ODD_SHAPES, TINY_SHAPES, Shape, peer_shares
from bench.suite import Case, Plan, copies_beyond_cache, parser, run

# Scales of x, w and y for those who requantize: results spread over the 8 bits without clipping much.
ZERO_POINT = 128


def exact(a: Array, b: Array) -> Array:
    """The int32 product by way of float64, which holds every partial sum exactly."""
    product: Array = (a.astype(np.float64) @ b.astype(np.float64)).astype(np.int32)
    return product


def ours(name: str, a: Array, weights: Sequence[Array], expected: Sequence[Array], threads: int) -> Contender:
    packed = [ek.pack_weights(w) for w in weights]
    pairs = [(w, on_lines((len(a), w.shape[1]), np.int32)) for w in packed]
    return Contender(
        name,
        in_turn([partial(ek.matmul_integer, a, w, out=c, num_threads=threads) for w, c in pairs]),
        equals(expected),
        len(pairs),
        packed[0].nbytes,
    )


def _operands(shape: Shape, copies: int) -> tuple[Array, list[Array]]:
    """Full range, -128 included."""
    rng = np.random.default_rng([shape.m, shape.n, shape.k])
    a = rng.integers(0, 256, (shape.m, shape.k), dtype=np.uint8)
    return a, rolled(rng.integers(-128, 128, (shape.k, shape.n), dtype=np.int8), copies)


def contenders(shape: Shape, threads: int, copies: int = 1, *, peers: bool = True) -> list[Contender]:
    """Everybody who multiplies this shape, by as many different weights as there are copies."""
    a, weights = _operands(shape, copies)
    signed = a.view(np.int8).copy()
    from_u8, from_s8 = (rolled(exact(x, weights[0]), copies) for x in (a, signed))
    everyone = [
        ours("edgekern_u8", a, weights, from_u8, threads),
        ours("edgekern_s8", signed, weights, from_s8, threads),
    ]
    if not peers:
        return everyone
    scales = (0.01, 0.01, 0.01 * 0.01 * 74 * 74 * np.sqrt(shape.k) / 40)
    centered = [c - ZERO_POINT * w.sum(axis=0, dtype=np.int32) for c, w in zip(from_u8, weights, strict=True)]
    steps = [np.clip(np.rint(c * (scales[0] * scales[1] / scales[2])) + ZERO_POINT, 0, 255) for c in centered]
    read = shape.k * shape.n
    ort = partial(onnxruntime, feeds={"x": a}, threads=threads, calls=copies, read_bytes=read)
    qlinear = partial(torch_peers.static, a, weights, scales, (ZERO_POINT, ZERO_POINT), check=within_one_step(steps))
    zero_points = (ZERO_POINT, ZERO_POINT)
    return everyone + join(
        ("torch", lambda: torch_peers.int_mm(signed, weights, equals(from_s8))),
        ("torch", lambda: qlinear("torch_x86", engine="x86")),
        ("torch", lambda: qlinear("torch_onednn", engine="onednn")),
        ("onnxruntime", lambda: ort("ort_integer", onnx_models.matmul_integer(a, weights), check=equals(from_u8))),
        (
            "onnxruntime",
            lambda: ort(
                "ort_qlinear",
                onnx_models.qlinear_matmul(a, weights, scales, zero_points),
                check=within_one_step(steps),
            ),
        ),
        ("numpy", lambda: numpy_float("numpy_f32", a, weights, from_u8)),
    )


def _case(shape: Shape, group: str, threads: int, copies: int) -> Case:
    shares = peer_shares(shape, threads) if copies == 1 else {}
    everyone = contenders(shape, threads, copies)
    return Case(group, str(shape), everyone, shape.operations, rotated=copies > 1, known_shares=shares)


def cases(threads: int, *, quick: bool) -> Iterator[Plan]:
    if quick:
        for shape in TINY_SHAPES:
            yield str(shape), partial(_case, shape, "tiny shapes", threads, 1 if shape.m > 1 else 3)
        return
    for shape in GEMM_SHAPES:
        yield str(shape), partial(_case, shape, "18 shapes, warm", threads, 1)
    for shape in GEMM_SHAPES:
        if shape.m <= DECODE_ROWS:
            copies = copies_beyond_cache(shape.k * shape.n)
            yield str(shape), partial(_case, shape, "decode, weights from memory", threads, copies)
    for shape in ODD_SHAPES:
        yield str(shape), partial(_case, shape, "40 odd shapes", threads, 1)


def main(argv: Sequence[str]) -> int:
    options = parser("gemm", __doc__).parse_args(argv)
    run("gemm", options, lambda threads: cases(threads, quick=options.quick))
    return 0
