"""Repair, step by step: ``python -m bench recovery [--task resnet20] [--worst 3] [--samples 128] [--seconds 0.5]``.

The case of a model whose weights get 4 bits and one scale a layer, which loses most: then equalization, AdaRound, and
the layers that :func:`edgekern.sensitivity` finds worst by 8-bit weights and 16-bit activations. Each step keeps those
before it. A row has points of top-1 on the test images, agreement with float, the signal to noise of the logits, bytes
of the QDQ model and of the program, and the milliseconds of a run of one image on one thread, interleaved. Rows before
the steps: float32, and 8 bits with a scale a channel and one a layer. Calibrated on training images, as AdaRound is;
the program runs on edgekern's own core, the float model in onnxruntime.
"""

import argparse
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx

import edgekern as ek
from bench.bench_accuracy import BATCH
from bench.datasets import DATA_ROOT, TASKS, Float32Array, Fold, Task
from bench.harness import Contender, Row, machine, measure, print_table, sqnr_db, write_json
from bench.peers import onnxruntime
from edgekern.errors import EdgekernWarning

COLUMNS = {"step": "s", "top1": ".2f", "agree": ".2f", "sqnr_db": ".2f", "onnx_kb": ".0f", "ekm_kb": ".0f", "ms": ".3f"}
W4 = ek.QuantConfig(recipe="w4a8", granularity="tensor")


class Repair:
    """One model under repair, calibrated anew whenever its floats change."""

    def __init__(self, model: onnx.ModelProto, fold: Fold, samples: int) -> None:
        self.model, self._images = model, fold.calibration
        self._name = model.graph.input[0].name
        self.samples = self._feeds(fold.calibration[:samples])
        self._ranges: ek.Ranges | None = None

    def _feeds(self, images: Float32Array) -> list[dict[str, Any]]:
        return [{self._name: images[i : i + BATCH]} for i in range(0, len(images), BATCH)]

    @property
    def ranges(self) -> ek.Ranges:
        if self._ranges is None:
            calibrator = ek.Calibrator(self.model, progress=False).collect_many(self._feeds(self._images))
            self._ranges = calibrator.compute_ranges()
        return self._ranges

    def quantized(self, config: ek.QuantConfig) -> onnx.ModelProto:
        return ek.quantize(self.model, self.ranges, config, samples=self.samples, progress=False)

    def equalize(self) -> None:
        self.model, self._ranges = ek.equalize(self.model, self.samples), None

    def worst(self, config: ek.QuantConfig, count: int) -> list[str]:
        """The layers whose rounding the outputs suffer most from."""
        plain = replace(config, rounding="filter_sum")
        found = ek.sensitivity(self.model, self.ranges, self.samples, plain, progress=False)
        return [row.name for row in found.worst(count)]


def steps(repair: Repair, worst: int) -> Iterator[tuple[str, onnx.ModelProto]]:
    """Each step's name and model."""
    yield "W8A8, a scale a channel", repair.quantized(ek.QuantConfig(recipe="w8a8"))
    yield "W8A8, one scale a layer", repair.quantized(ek.QuantConfig(recipe="w8a8", granularity="tensor"))
    yield "W4A8, one scale a layer", repair.quantized(W4)
    repair.equalize()
    yield "+ equalization", repair.quantized(W4)
    rounded = replace(W4, rounding="adaround")
    yield "+ AdaRound", repair.quantized(rounded)
    names = repair.worst(W4, worst)
    print(f"worst {worst} layers by sensitivity: {', '.join(names)}")
    yield f"+ worst {worst} in w8a16", repair.quantized(replace(rounded, overrides=dict.fromkeys(names, "w8a16")))


def measure_task(task: Task, worst: int, samples: int, seconds: float) -> list[Row]:
    """A row for the float model and each step."""
    [fold] = task.load()
    source = onnx.load(task.model)
    name, first = source.graph.input[0].name, fold.samples[:1]
    contender = onnxruntime("float32", str(task.model), {name: first}, 1, lambda _: None)
    exact = _logits(_float_session(task), name, fold.samples)
    contenders = [contender]
    rows: list[dict[str, Any]] = [_row("float32", exact, exact, fold)]
    rows[0]["onnx_kb"] = task.model.stat().st_size / 1000
    for step, qdq in steps(Repair(source, fold, samples), worst):
        program = ek.compile(qdq, batch=1)
        session = ek.InferenceSession(program, num_threads=1)
        row = _row(step, exact, _logits(session, name, fold.samples), fold)
        with tempfile.TemporaryDirectory(prefix="edgekern-bench-") as folder:
            program.save(Path(folder, "model.ekm"))
            row |= {"onnx_kb": qdq.ByteSize() / 1000, "ekm_kb": Path(folder, "model.ekm").stat().st_size / 1000}
        rows.append(row)
        contenders.append(Contender(step, partial(session.run, None, {name: first}), lambda _: None))
    timings = measure(contenders, seconds=seconds)
    return [{"model": task.name, **row, "ms": timings[row["step"]].best * 1e3} for row in rows]


def _float_session(task: Task) -> Any:
    from edgekern._onnxruntime import open_session

    return open_session(str(task.model), num_threads=1, as_written=True)


def _logits(session: Any, name: str, images: Float32Array) -> Float32Array:
    return np.concatenate([session.run(None, {name: images[i : i + 1]})[0] for i in range(len(images))])


def _row(step: str, exact: Float32Array, found: Float32Array, fold: Fold) -> dict[str, Any]:
    chosen = found.argmax(axis=1)
    return {
        "step": step,
        "top1": 100 * float((chosen == fold.labels).mean()),
        "agree": 100 * float((chosen == exact.argmax(axis=1)).mean()),
        "sqnr_db": None if found is exact else sqnr_db(exact, found),
    }


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench recovery", description=__doc__)
    parser.add_argument("--task", choices=["resnet20", "resnet8"], default="resnet20")
    parser.add_argument("--worst", type=int, default=3, help="layers of the last step")
    parser.add_argument("--samples", type=int, default=128, help="training images that equalization and AdaRound see")
    parser.add_argument("--seconds", type=float, default=0.5, help="at least so long a contender")
    parser.add_argument("--json", type=Path, help="append one JSON object a row to this file")
    options = parser.parse_args(argv)
    if not DATA_ROOT.is_dir():
        parser.error(f"no data at {DATA_ROOT}; set EDGEKERN_TEST_DATA")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", EdgekernWarning)  # of channels whose scale had to grow
        rows = measure_task(TASKS[options.task], options.worst, options.samples, options.seconds)
    print_table(rows, COLUMNS)
    here = machine(["edgekern", "onnxruntime", "onnx"])
    write_json(options.json, [{**row, **here} for row in rows])
    return 0
