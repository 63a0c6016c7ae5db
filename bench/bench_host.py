"""Programs with host steps on one thread and on two: ``python -m bench host [--json run.json]``.

Products of ours between steps of onnxruntime's, as in a transformer whose norms have no kernel. Two libraries with
threads of their own share the CPUs here: each has to leave them to the other while it waits. The figure that counts is
the time on two threads over the time on one; the limit that the product holds itself to is 1.1.
"""

import warnings
from collections.abc import Iterator, Sequence
from functools import partial

import numpy as np
from onnx import helper

import edgekern as ek
from bench import onnx_models
from bench.harness import Contender, Row
from bench.peers import Array, equals
from bench.suite import Case, Plan, Result, parser, run

LAYERS = 12
SIZES = ((128, 384), (16, 384), (512, 768))  # rows, columns
ONE = "one_thread"


def model(x: Array) -> bytes:
    """Shrink(x W) again and again, quantized between: an operator without a kernel."""
    rng, nodes, columns = np.random.default_rng(1), [], x.shape[1]
    constants: dict[str, Array] = {
        "s": np.array(1 / 255, np.float32),
        "z": np.array(0, np.uint8),
        "sw": np.array(0.02, np.float32),
        "zw": np.array(0, np.int8),
    }
    name = "x"
    for i in range(LAYERS):
        constants[f"w{i}"] = rng.integers(-127, 128, (columns, columns), dtype=np.int8)
        nodes += [
            helper.make_node("QuantizeLinear", [name, "s", "z"], [f"q{i}"]),
            helper.make_node("DequantizeLinear", [f"q{i}", "s", "z"], [f"d{i}"]),
            helper.make_node("DequantizeLinear", [f"w{i}", "sw", "zw"], [f"dw{i}"]),
            helper.make_node("MatMul", [f"d{i}", f"dw{i}"], [f"p{i}"]),
            helper.make_node("Shrink", [f"p{i}"], [f"y{i}"], lambd=0.1, bias=0.1),
        ]
        name = f"y{i}"
    return onnx_models.model(nodes, x, [(name, np.float32, x.shape)], constants)


def _case(rows: int, columns: int, threads: int) -> Case:
    x = np.random.default_rng([rows, columns]).random((rows, columns), dtype=np.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = ek.compile(model(x))
    one, more = (ek.InferenceSession(program, num_threads=count) for count in (1, threads))
    [expected] = one.run(None, {"x": x})

    return Case(
        "host steps",
        f"{LAYERS} x ({rows}, {columns})",
        [
            Contender("edgekern", lambda: more.run(None, {"x": x})[0], equals(expected)),
            Contender(ONE, lambda: one.run(None, {"x": x})[0], equals(expected)),
        ],
        references=(ONE,),
    )


def cases(threads: int, *, quick: bool) -> Iterator[Plan]:
    for rows, columns in SIZES[:1] if quick else SIZES:
        yield f"{LAYERS} x ({rows}, {columns})", partial(_case, rows, columns, threads)


def figures(results: Sequence[Result]) -> Row:
    """The time of a run over its time on one thread."""
    return {
        f"{result.case.name}: time over one thread's": result.timings["edgekern"].best / result.timings[ONE].best
        for result in results
    }


def main(argv: Sequence[str]) -> int:
    ours = parser("host", __doc__)
    ours.set_defaults(threads=[2])
    options = ours.parse_args(argv)
    run("host", options, lambda threads: cases(threads, quick=options.quick), figures)
    return 0
