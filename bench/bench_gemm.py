"""Integer GEMM beside its peers: ``python -m bench gemm [--threads 1 2] [--shapes 64x64x64 ...] [--json rows.jsonl]``.

edgekern multiplies uint8 and int8 activations by packed int8 weights into ``out=``; torch runs ``_int_mm``, onnxruntime
MatMulInteger with constant (prepacked) weights and a bound output, NumPy the float32 product. Every integer result must
equal the exact one before it is timed. The limit is what this machine could do at best: dot products on registers, or
reading the weights once from wherever a buffer of their size lives.
"""

import argparse
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

import edgekern as ek
from bench.harness import Contender, Row, Timing, machine, measure, print_table, version, write_json
from bench.peak import Peak, measure_peak
from bench.shapes import GEMM_SHAPES, Shape

Array = npt.NDArray[Any]
PEERS = ("torch", "onnxruntime", "numpy")


def _equals(expected: Array) -> Callable[[Any], None]:
    return lambda result: np.testing.assert_array_equal(np.asarray(result), expected)


def _close(expected: Array) -> Callable[[Any], None]:
    # float32 sums of K products: the error stays far under one part in 1e4 of the largest element.
    tolerance = 1e-4 * float(np.abs(expected).max(initial=1))
    return lambda result: np.testing.assert_allclose(result, expected, rtol=0, atol=tolerance)


def _exact(a: Array, b: Array) -> Array:
    """The int32 product by way of float64, which holds every partial sum exactly."""
    product: Array = (a.astype(np.float64) @ b.astype(np.float64)).astype(np.int32)
    return product


def _edgekern(name: str, a: Array, b: Array, threads: int) -> Contender:
    weights, out = ek.pack_weights(b), np.empty((a.shape[0], b.shape[1]), np.int32)
    return Contender(name, lambda: ek.matmul_integer(a, weights, out=out, num_threads=threads), _equals(_exact(a, b)))


def _torch(a: Array, b: Array, threads: int) -> Contender:
    import torch

    torch.set_num_threads(threads)
    left, right = torch.from_numpy(a), torch.from_numpy(b)
    out = torch.empty((a.shape[0], b.shape[1]), dtype=torch.int32)
    return Contender("torch", lambda: torch._int_mm(left, right, out=out), _equals(_exact(a, b)))


def _onnxruntime(a: Array, b: Array, threads: int) -> Contender:
    import onnxruntime as ort
    from onnx import TensorProto, helper, numpy_helper

    graph = helper.make_graph(
        [helper.make_node("MatMulInteger", ["a", "b"], ["c"])],
        "gemm",
        [helper.make_tensor_value_info("a", TensorProto.UINT8, a.shape)],
        [helper.make_tensor_value_info("c", TensorProto.INT32, (a.shape[0], b.shape[1]))],
        [numpy_helper.from_array(b, "b")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    out = ort.OrtValue.ortvalue_from_numpy(np.empty((a.shape[0], b.shape[1]), np.int32))
    binding = session.io_binding()
    binding.bind_ortvalue_input("a", ort.OrtValue.ortvalue_from_numpy(a))
    binding.bind_ortvalue_output("c", out)

    def run() -> Any:
        session.run_with_iobinding(binding)
        return out

    check = _equals(_exact(a, b))
    return Contender("onnxruntime", run, lambda result: check(result.numpy()))


def _numpy(a: Array, b: Array) -> Contender:
    left, right = a.astype(np.float32), b.astype(np.float32)
    out = np.empty((a.shape[0], b.shape[1]), np.float32)
    return Contender("numpy", lambda: np.matmul(left, right, out=out), _close(_exact(a, b)))


def contenders(shape: Shape, threads: int, peers: Sequence[str]) -> list[Contender]:
    """Everybody who multiplies this shape; operands are full-range, -128 included."""
    rng = np.random.default_rng(shape.operations)
    a = rng.integers(0, 256, (shape.m, shape.k), dtype=np.uint8)
    signed = (a.view(np.int8)).copy()
    b = rng.integers(-128, 128, (shape.k, shape.n), dtype=np.int8)
    everyone = [_edgekern("edgekern_u8", a, b, threads), _edgekern("edgekern_s8", signed, b, threads)]
    if "torch" in peers:
        everyone.append(_torch(signed, b, threads))
    if "onnxruntime" in peers:
        everyone.append(_onnxruntime(a, b, threads))
    if "numpy" in peers:
        everyone.append(_numpy(a, b))
    return everyone


def _row(shape: Shape, name: str, timing: Timing, peak: Peak, host: Row) -> Row:
    limit = peak.seconds(shape.operations, shape.k * shape.n)
    return {
        "op": "matmul_integer",
        "shape": str(shape),
        "threads": peak.threads,
        "name": name,
        "isa": peak.isa,
        "median_us": timing.median * 1e6,
        "best_us": timing.best * 1e6,
        "p10_us": timing.p10 * 1e6,
        "p90_us": timing.p90 * 1e6,
        "samples": timing.samples,
        "tops": shape.operations / timing.median / 1e12,
        "peak_percent": 100 * shape.operations / timing.median / peak.operations_per_second,
        "limit_percent": 100 * limit / timing.median,
        "max_err": 0 if name != "numpy" else None,
        **host,
    }


def _summary(shape: Shape, rows: Sequence[Row]) -> Row:
    """One line a shape: everybody's TOPS, our share of peak and limit, our ratio to the best peer."""
    by_name = {row["name"]: row for row in rows}
    ours = by_name["edgekern_u8"]
    peers = [row["tops"] for name, row in by_name.items() if name in PEERS]
    return {
        "MxNxK": str(shape),
        "what": shape.what,
        "threads": ours["threads"],
        "median_us": ours["median_us"],
        "%peak": ours["peak_percent"],
        "%limit": ours["limit_percent"],
        "x_best_peer": ours["tops"] / max(peers) if peers else None,
        **{name: row["tops"] for name, row in by_name.items()},
    }


def _blas_threads(threads: int) -> AbstractContextManager[Any]:
    if version("threadpoolctl") is None:
        print("threadpoolctl is absent: NumPy runs on its own number of threads")
        return nullcontext()
    from threadpoolctl import threadpool_limits

    return threadpool_limits(threads)  # type: ignore[no-any-return]


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench gemm", description=__doc__)
    parser.add_argument("--threads", type=int, nargs="+", default=[1], help="numbers of threads to measure")
    parser.add_argument("--shapes", nargs="+", metavar="MxNxK", help="only these; default: all of bench/shapes.py")
    parser.add_argument("--seconds", type=float, default=0.4, help="time per contender and shape")
    parser.add_argument("--json", type=Path, help="append one JSON object a row to this file")
    options = parser.parse_args(argv)

    shapes = [shape for shape in GEMM_SHAPES if not options.shapes or str(shape) in options.shapes]
    if options.shapes:
        known = {str(shape) for shape in shapes}
        sides = [tuple(map(int, text.split("x"))) for text in options.shapes if text not in known]
        shapes += [Shape(m, n, k, "given") for m, n, k in sides]
    peers = [name for name in PEERS if version(name)]
    host = {"edgekern": ek.__version__, **machine(PEERS)}
    print(*(f"{key}: {fact}" for key, fact in host.items()), sep="; ")
    for name in sorted(set(PEERS) - set(peers)):
        print(f"peer {name} is absent")

    isa = str(ek.cpu_info()["isa"])
    for threads in options.threads:
        peak = measure_peak(isa, threads)
        print(
            f"\n{threads} thread(s), {isa}: dot-product peak {peak.operations_per_second / 1e12:.3f} TOPS; TOPS below"
        )
        lines: list[Row] = []
        with _blas_threads(threads):
            for shape in shapes:
                timings = measure(contenders(shape, threads, peers), seconds=options.seconds)
                rows = [_row(shape, name, timing, peak, host) for name, timing in timings.items()]
                write_json(options.json, rows)
                lines.append(_summary(shape, rows))
        columns = {"MxNxK": "", "what": "", "median_us": ".1f", "%peak": ".0f", "%limit": ".0f", "x_best_peer": ".2f"}
        print_table(lines, columns | dict.fromkeys(["edgekern_u8", "edgekern_s8", *peers], ".3f"))
        again = measure_peak(isa, threads).operations_per_second / 1e12
        print(f"peak after the run: {again:.3f} TOPS")
    return 0
