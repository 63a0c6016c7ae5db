"""Convolution layers beside their peers: ``python -m bench conv [--threads 1 2] [--json run.json]``.

Each layer is a QDQ model of its own, uint8 NCHW in and out, per-channel weights, bias and ReLU, at batch 1; edgekern,
onnxruntime and OpenVINO get the same bytes, and everybody pays for bringing the image into their own layout and back.
``edgekern_layer`` is the compiled layer's own step, without that: inside a network no other step is there.
"""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np

import edgekern as ek
from bench.harness import Contender, Row
from bench.onnx_models import Conv, qdq_conv
from bench.peers import join, onnxruntime, openvino, within_one_step
from bench.suite import Case, Plan, Result, geometric_mean, parser, run
from edgekern._core import StepKind

LAYERS = {
    "MobileNetV2": (
        Conv(3, 32, 224, 3, stride=2),
        Conv(32, 32, 112, 3, groups=32),
        Conv(16, 96, 112, 1),
        Conv(96, 96, 112, 3, stride=2, groups=96),
        Conv(96, 24, 56, 1),
        Conv(192, 192, 28, 3, groups=192),
        Conv(384, 64, 14, 1),
        Conv(576, 576, 14, 3, stride=2, groups=576),
        Conv(960, 960, 7, 3, groups=960),
        Conv(320, 1280, 7, 1),
    ),
    "SqueezeNet": (Conv(64, 16, 55, 1), Conv(16, 64, 55, 3), Conv(48, 192, 27, 3), Conv(512, 1000, 13, 1)),
    "ResNet-50": (
        Conv(3, 64, 224, 7, stride=2),
        Conv(64, 256, 56, 1),
        Conv(64, 64, 56, 3),
        Conv(256, 512, 56, 1, stride=2),
        Conv(128, 128, 28, 3),
        Conv(256, 256, 14, 3),
        Conv(512, 512, 7, 3),
        Conv(2048, 512, 7, 1),
    ),
}
QUICK_LAYERS = {"quick": (Conv(8, 16, 14, 3), Conv(16, 16, 14, 3, stride=2, groups=16), Conv(16, 8, 14, 1))}
LAYER = "edgekern_layer"


def contenders(layer: Conv, threads: int) -> list[Contender]:
    model, x = qdq_conv(layer, np.random.default_rng(layer))
    program = ek.compile(model, batch=1, allow_host=False)
    session = ek.InferenceSession(program, num_threads=threads)
    peer = onnxruntime("ort_qdq", model, {"x": x}, threads, lambda _: None)
    expected = peer.run()[0].numpy().copy()
    check = within_one_step(expected)
    core = ek.InferenceSession(program, num_threads=threads)._runner.core  # whose arena nobody else writes
    [step] = [i for i, step in enumerate(program.index.steps) if step.kind in (StepKind.CONV, StepKind.DEPTHWISE)]

    core.tensor(program.index.inputs[0])[...] = x
    for before in range(step):  # they write what the layer reads
        core.run_step(before)
    result = core.tensor(program.index.steps[step].outputs[0])

    def alone() -> Any:
        core.run_step(step)
        return result

    return [
        Contender("edgekern", partial(session.run, None, {"x": x}, out=session.run(None, {"x": x})), check),
        Contender(LAYER, alone, within_one_step(expected.transpose(0, 2, 3, 1))),
        Contender("ort_qdq", peer.run, check),
        *join(("openvino", lambda: openvino("openvino_qdq", model, {"x": x}, threads, check))),
    ]


def _case(network: str, layer: Conv, threads: int) -> Case:
    return Case(network, str(layer), contenders(layer, threads), layer.operations, references=(LAYER,))


def cases(threads: int, *, quick: bool) -> Iterator[Plan]:
    for network, layers in (QUICK_LAYERS if quick else LAYERS).items():
        for layer in layers:
            yield str(layer), partial(_case, network, layer, threads)


def figures(results: Sequence[Result]) -> Row:
    """How much faster the layer alone is than the fastest peer with its layout changes."""
    ratios = [row.timings[row.best_peer].best / row.timings[LAYER].best for row in results if row.best_peer]
    return {"layer alone over the fastest peer, geometric mean": geometric_mean(ratios)}


def main(argv: Sequence[str]) -> int:
    options = parser("conv", __doc__).parse_args(argv)
    run("conv", options, lambda threads: cases(threads, quick=options.quick), figures)
    return 0
