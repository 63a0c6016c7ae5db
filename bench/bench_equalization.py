"""What equalization takes back of what one scale a layer costs: ``python -m bench equalization [--tasks NAME ...]``.

Rows of a model: 8-bit weights with a scale an output channel, with one scale a layer, and both after
:func:`edgekern.equalize`, without samples and with those of calibration; and the equalized float models. Columns: the
signal to noise of the logits against the float model, agreement of top-1 with it, and the share of the dB between the
first two rows that is recovered. Activations are uint8 with ranges of least squared error from the same samples, others
are judged, and onnxruntime runs the QDQ files.
"""

import argparse
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import onnx

import edgekern as ek
from bench.accuracy_cases import Array, Case, of_task
from bench.accuracy_engines import run_onnx
from bench.datasets import DATA_ROOT, TASKS
from bench.harness import Row, machine, print_table, sqnr_db, write_json
from edgekern.errors import EdgekernWarning

COLUMNS = {"model": "s", "weights": "s", "samples": "d", "sqnr_db": ".2f", "agree": ".2f", "recovered": ".0%"}
CHANNEL, TENSOR = ek.QuantConfig(recipe="w8a8"), ek.QuantConfig(recipe="w8a8", granularity="tensor")


def _logits(model: onnx.ModelProto | Path, case: Case) -> Array:
    run = run_onnx(str(model) if isinstance(model, Path) else model.SerializeToString())
    return np.concatenate([run(feeds)[0] for feeds in case.judged])


def _quantized(model: onnx.ModelProto, case: Case) -> Iterator[onnx.ModelProto]:
    """With a scale a channel, then with one a layer."""
    calibrator = ek.Calibrator(model, shapes=case.shapes, progress=False).collect_many(case.calibration)
    ranges = calibrator.compute_ranges()
    for config in (CHANNEL, TENSOR):
        yield ek.quantize(model, ranges, config, shapes=case.shapes)


def measure_case(name: str, case: Case) -> list[Row]:
    """The rows of a model."""
    source = onnx.load(case.path)
    models: dict[str, onnx.ModelProto] = {}
    models["a scale a channel"], models["one a layer"] = _quantized(source, case)
    for said, samples in (("weights alone", None), ("samples", case.calibration)):
        equal = ek.equalize(source, samples)
        models[f"float, equalized by {said}"] = equal
        by_channel, by_layer = _quantized(equal, case)
        models[f"a scale a channel, equalized by {said}"] = by_channel
        models[f"one a layer, equalized by {said}"] = by_layer
    exact = _logits(case.path, case)
    found = {weights: _logits(model, case) for weights, model in models.items()}
    decibels = {weights: sqnr_db(exact, logits) for weights, logits in found.items()}
    lost = decibels["a scale a channel"] - decibels["one a layer"]
    return [
        {
            "model": name,
            "weights": weights,
            "samples": len(exact),
            "sqnr_db": decibels[weights],
            "agree": 100 * float((logits.argmax(axis=1) == exact.argmax(axis=1)).mean()),
            "recovered": (decibels[weights] - decibels["one a layer"]) / lost if weights.startswith("one") else None,
        }
        for weights, logits in found.items()
    ]


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench equalization", description=__doc__)
    parser.add_argument("--tasks", nargs="+", choices=list(TASKS), default=["mobilenetv2"])
    parser.add_argument("--calibrate", type=int, default=32, help="samples that calibrate")
    parser.add_argument("--judge", type=int, default=250, help="others, to judge on")
    parser.add_argument("--json", type=Path, help="append one JSON object a row to this file")
    options = parser.parse_args(argv)
    if not DATA_ROOT.is_dir():
        parser.error(f"no data at {DATA_ROOT}; set EDGEKERN_TEST_DATA")
    rows: list[Row] = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", EdgekernWarning)  # of channels whose scale had to grow
        for name in options.tasks:
            rows += measure_case(name, of_task(TASKS[name], options.calibrate, options.judge))
    print_table(rows, COLUMNS)
    here = machine(["edgekern", "onnxruntime", "onnx"])
    write_json(options.json, [{**row, **here} for row in rows])
    return 0
