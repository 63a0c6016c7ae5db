"""What a small call costs: ``python -m bench call [--threads 1 2] [--json run.json]``.

Packed weights, ``out=`` given, the package's number of threads: as a user writes it. Peers are torch's ``_int_mm`` with
``out=``, onnxruntime's MatMulInteger with bound operands, and NumPy in float32. ``edgekern_c`` is the same product
repeated through the C table, without Python in between; the difference is what the call from Python costs.
"""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np

import edgekern as ek
from bench import onnx_models
from bench.bench_gemm import exact
from bench.harness import Contender, Row
from bench.peers import Array, equals, join, on_lines, onnxruntime
from bench.shapes import Shape
from bench.suite import Case, Plan, Result, parser, run
from edgekern import _core

SHAPES = (
    Shape(1, 16, 4, "nothing but the call"),
    Shape(1, 64, 64, "a row"),
    Shape(8, 64, 64, "a few rows"),
    Shape(16, 16, 16, "tiny"),
    Shape(32, 32, 32, "small"),
    Shape(64, 64, 64, "one small block"),
    Shape(128, 128, 128, "beside it"),
    Shape(256, 256, 256, "one Cube block"),
)
# Products of one contender's turn in C: weights are packed once in a turn, which must not show.
TURN_OPERATIONS, MOST_REPEATS = 2e10, 2048
WITHOUT_PYTHON = "edgekern_c"


def _torch(a: Array, b: Array, check: Any) -> Contender:
    import torch

    left, right = torch.from_numpy(a), torch.from_numpy(b)
    out = torch.empty((a.shape[0], b.shape[1]), dtype=torch.int32)
    return Contender("torch_int_mm", lambda: torch._int_mm(left, right, out=out), check)


def contenders(shape: Shape, threads: int) -> list[Contender]:
    rng = np.random.default_rng([shape.m, shape.n, shape.k])
    a = rng.integers(0, 256, (shape.m, shape.k), dtype=np.uint8)
    signed, b = a.view(np.int8).copy(), rng.integers(-128, 128, (shape.k, shape.n), dtype=np.int8)
    from_u8, from_s8, packed = exact(a, b), exact(signed, b), ek.pack_weights(b)
    out = [on_lines((shape.m, shape.n), np.int32) for _ in range(3)]
    floats, float_out = (a.astype(np.float32), b.astype(np.float32)), on_lines((shape.m, shape.n), np.float32)

    repeats = int(min(MOST_REPEATS, max(1, TURN_OPERATIONS // shape.operations)))

    def without_python() -> Array:
        _core.repeat_c_gemm(a, b, out[2], repeats, threads)
        return out[2]

    return [
        Contender("edgekern_u8", lambda: ek.matmul_integer(a, packed, out=out[0]), equals(from_u8)),
        Contender("edgekern_s8", lambda: ek.matmul_integer(signed, packed, out=out[1]), equals(from_s8)),
        Contender(WITHOUT_PYTHON, without_python, equals(from_u8), calls=repeats),
        *join(
            ("torch", lambda: _torch(signed, b, equals(from_s8))),
            (
                "onnxruntime",
                lambda: onnxruntime(
                    "ort_integer", onnx_models.matmul_integer(a, [b]), {"x": a}, threads, equals(from_u8)
                ),
            ),
            (
                "numpy",
                lambda: Contender("numpy_f32", lambda: np.matmul(*floats, out=float_out), equals(from_u8)),
            ),
        ),
    ]


def _case(shape: Shape, threads: int) -> Case:
    ek.set_num_threads(threads)
    return Case("calls from Python", str(shape), contenders(shape, threads), references=(WITHOUT_PYTHON,))


def cases(threads: int, *, quick: bool) -> Iterator[Plan]:
    for shape in SHAPES[:3] if quick else SHAPES:
        yield str(shape), partial(_case, shape, threads)


def figures(results: Sequence[Result]) -> Row:
    """Microseconds that Python adds to a product, and the share of the peak that a caller in C gets."""
    found: dict[str, float] = {}
    operations = {str(shape): shape.operations for shape in SHAPES}
    for result in results:
        name, peak = result.case.name, result.after.operations_per_second
        call, core = result.timings["edgekern_u8"].best, result.timings[WITHOUT_PYTHON].best
        found[f"{name}: Python over C, us"] = 1e6 * (call - core)
        found[f"{name}: call over arithmetic at the peak, us"] = 1e6 * (call - operations[name] / peak)
        found[f"{name}: % of the peak from C"] = 100 * operations[name] / core / peak
    return found


def main(argv: Sequence[str]) -> int:
    options, before = parser("call", __doc__).parse_args(argv), ek.get_num_threads()
    try:
        run("call", options, lambda threads: cases(threads, quick=options.quick), figures)
    finally:
        ek.set_num_threads(before)
    return 0
