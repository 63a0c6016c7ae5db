"""Whole networks at batch 1: ``python -m bench models [--threads 1 2] [--json run.json]``.

Each float model is calibrated on a few of its own images and quantized by edgekern with the default configuration;
edgekern, onnxruntime and OpenVINO then run the very same QDQ file. Every answer is compared with onnxruntime's. The
quickstart's digits stand beside onnxruntime's float run, too: that row is the README's latency.
"""

import warnings
from collections.abc import Iterator, Sequence
from functools import cache, partial

import numpy as np
import onnx

import edgekern as ek
from bench.bench_accuracy import quantize_default
from bench.datasets import DATA_ROOT, TASKS, Float32Array, Fold
from bench.harness import Contender
from bench.peers import close, join, onnxruntime, openvino
from bench.suite import Case, Plan, parser, run
from edgekern import quickstart
from edgekern.errors import EdgekernWarning

CALIBRATION_SAMPLES = 32
# Engines round at other places; each is about this far from the others, and much nearer than a wrong answer.
NOISE = 0.3
DIGITS = "digits"
QUICK_TASKS = ("keywords",)


@cache
def quantized(name: str) -> tuple[bytes, Float32Array]:
    """The QDQ file, and one sample that was not calibrated on."""
    if name == DIGITS:
        train, held_out = quickstart.load_digits()
        calibrator = ek.Calibrator(quickstart.MODEL, progress=False).collect_many(train.feeds(batch=64))
        return ek.quantize(quickstart.MODEL, calibrator.compute_ranges()).SerializeToString(), held_out.images[:1]
    fold = TASKS[name].load()[0]
    few = Fold(fold.calibration[:CALIBRATION_SAMPLES], fold.samples[:1], fold.labels[:1])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", EdgekernWarning)
        return quantize_default(TASKS[name], few).SerializeToString(), few.samples


def contenders(name: str, threads: int) -> list[Contender]:
    model, sample = quantized(name)
    feeds = {onnx.load_model_from_string(model).graph.input[0].name: np.ascontiguousarray(sample)}
    session = ek.InferenceSession(ek.compile(model, batch=1, allow_host=False), num_threads=threads)
    peer = onnxruntime("ort_qdq", model, feeds, threads, lambda _: None)
    check = close(peer.run()[0].numpy().copy(), NOISE)
    unquantized = quickstart.MODEL.read_bytes() if name == DIGITS else b""
    return [
        Contender("edgekern", partial(session.run, None, feeds, out=session.run(None, feeds)), check),
        Contender("ort_qdq", peer.run, check),
        *([onnxruntime("ort_float", unquantized, feeds, threads, check)] if unquantized else []),
        *join(("openvino", lambda: openvino("openvino_qdq", model, feeds, threads, check))),
    ]


def _case(name: str, threads: int) -> Case:
    return Case("batch 1", name, contenders(name, threads))


def cases(threads: int, *, quick: bool) -> Iterator[Plan]:
    for name in QUICK_TASKS if quick else (*TASKS, DIGITS):
        yield name, partial(_case, name, threads)


def main(argv: Sequence[str]) -> int:
    arguments = parser("models", __doc__)
    options = arguments.parse_args(argv)
    if not DATA_ROOT.is_dir():
        arguments.error(f"no data at {DATA_ROOT}; set EDGEKERN_TEST_DATA")
    run("models", options, lambda threads: cases(threads, quick=options.quick))
    return 0
