"""What INT8 costs in accuracy: ``python -m bench accuracy [--tasks ...] [--engines ...] [--recipe ...] [--json ...]``.

Each float model is calibrated, quantized with the default configuration, and scored three ways: on edgekern's own core
(compiled with ``allow_host=False``), in onnxruntime on the very same QDQ file, and beside them onnxruntime's own
``quantize_static`` (QDQ, per channel, MinMax). ``agree`` is the top-1 agreement with the float model, ``sqnr_db`` the
signal-to-noise ratio of the logits against it. With activations of 16 bits, both quantizers take the largest values for
ranges. Exits with 1 when a QDQ model of ours loses more than is allowed.
"""

import argparse
import logging
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import onnxruntime

import edgekern as ek
from bench.datasets import DATA_ROOT, TASKS, Array, Float32Array, Fold, Task
from bench.harness import Row, machine, print_table, sqnr_db, write_json
from bench.peers import NO_SATURATION
from edgekern.errors import EdgekernWarning

if TYPE_CHECKING:
    from edgekern.quantization.config import ModelRecipe

BATCH = 25
ENGINES = ("edgekern", "onnxruntime", "quantize_static")
COLUMNS = {
    "model": "s",
    "engine": "s",
    "samples": "d",
    "float": ".2f",
    "int8": ".2f",
    "drop": "+.2f",
    "allowed": ".1f",
    "agree": ".2f",
    "sqnr_db": ".2f",
    "agree_ort": ".2f",
}

Run = Callable[[Float32Array], Float32Array]


def _batches(samples: Float32Array) -> Iterator[Float32Array]:
    return (samples[i : i + BATCH] for i in range(0, len(samples), BATCH))


def _onnxruntime(model: onnx.ModelProto | Path) -> Run:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.add_session_config_entry(*NO_SATURATION)
    source = str(model) if isinstance(model, Path) else model.SerializeToString()
    session = onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda samples: np.concatenate([session.run(None, {name: batch})[0] for batch in _batches(samples)])


def _edgekern(model: onnx.ModelProto) -> Run:
    session = ek.InferenceSession(ek.compile(model, batch=1, allow_host=False))
    name = session.get_inputs()[0].name
    return lambda samples: np.concatenate(
        [session.run(None, {name: samples[i : i + 1]})[0] for i in range(len(samples))]
    )


def quantize_default(task: Task, fold: Fold, recipe: "ModelRecipe | None" = None) -> onnx.ModelProto:
    """The default configuration, or that of a recipe, the same for every model: nothing is chosen here.

    ``bench versus`` calls it in builds that know no recipes.
    """
    calibrator = ek.Calibrator(task.model)
    [name] = calibrator.input_names
    feeds = [{name: batch} for batch in _batches(fold.calibration)]
    calibrator.collect_many(feeds)
    ranges = calibrator.compute_ranges("max") if recipe == "w8a16" else calibrator.compute_ranges()
    return ek.quantize(task.model, ranges, None if recipe is None else ek.QuantConfig(recipe=recipe))


def _quantize_static(task: Task, fold: Fold, recipe: "ModelRecipe | None") -> onnx.ModelProto:
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            name = onnx.load(task.model).graph.input[0].name
            self.feeds = iter([{name: batch} for batch in _batches(fold.calibration)])

        def get_next(self) -> Any:
            return next(self.feeds, None)

    with tempfile.TemporaryDirectory(prefix="edgekern-bench-") as folder:
        prepared, result = Path(folder, "prepared.onnx"), Path(folder, "int8.onnx")
        quant_pre_process(str(task.model), str(prepared), skip_symbolic_shape=True)
        quantize_static(
            str(prepared),
            str(result),
            Reader(),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QUInt16 if recipe == "w8a16" else QuantType.QUInt8,
            weight_type=QuantType.QInt8,
        )
        return onnx.load(result)


def measure_task(task: Task, engines: Sequence[str], recipe: "ModelRecipe | None" = None) -> list[Row]:
    """Score one model on all its folds: a row for each engine."""
    logits: dict[str, list[Float32Array]] = {name: [] for name in ("float", *engines)}
    labels: list[Array] = []
    for fold in task.load():
        labels.append(fold.labels)
        logits["float"].append(_onnxruntime(task.model)(fold.samples))
        if {"edgekern", "onnxruntime"} & set(engines):
            qdq = quantize_default(task, fold, recipe)
        for engine in engines:
            if engine == "quantize_static":
                run = _onnxruntime(_quantize_static(task, fold, recipe))
            else:
                run = _onnxruntime(qdq) if engine == "onnxruntime" else _edgekern(qdq)
            logits[engine].append(run(fold.samples))
    truth, merged = np.concatenate(labels), {name: np.concatenate(parts) for name, parts in logits.items()}
    top = {name: values.argmax(axis=1) for name, values in merged.items()}
    correct = {name: 100 * float(np.mean(choice == truth)) for name, choice in top.items()}
    both = "edgekern" in top and "onnxruntime" in top
    return [
        {
            "model": task.name,
            "engine": engine,
            "samples": len(truth),
            "float": correct["float"],
            "int8": correct[engine],
            "drop": correct["float"] - correct[engine],
            "allowed": None if engine == "quantize_static" else task.allowed_drop,
            "agree": 100 * float(np.mean(top[engine] == top["float"])),
            "sqnr_db": sqnr_db(merged["float"], merged[engine]),
            "agree_ort": 100 * float(np.mean(top[engine] == top["onnxruntime"]))
            if both and engine == "edgekern"
            else None,
        }
        for engine in engines
    ]


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="bench accuracy", description=__doc__)
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--engines", nargs="+", choices=ENGINES, default=list(ENGINES))
    parser.add_argument("--recipe", choices=("w8a8", "w8a16"), help="else what quantize chooses by itself")
    parser.add_argument("--json", type=Path, help="append one JSON object a row to this file")
    arguments = parser.parse_args(argv)
    if not DATA_ROOT.is_dir():
        parser.error(f"no data at {DATA_ROOT}; set EDGEKERN_TEST_DATA")
    logging.getLogger().setLevel(logging.ERROR)  # quantize_static advises on every run
    warnings.simplefilter("ignore", EdgekernWarning)
    rows = [row for name in arguments.tasks for row in measure_task(TASKS[name], arguments.engines, arguments.recipe)]
    print_table(rows, COLUMNS)
    here = machine(["edgekern", "onnxruntime", "onnx"])
    write_json(arguments.json, [{**row, **here} for row in rows])
    # Points are multiples of 100 / samples; half of the smallest step absorbs the rounding of the subtraction.
    lost = [row for row in rows if row["allowed"] is not None and row["drop"] > row["allowed"] + 1e-6]
    for row in lost:
        print(f"{row['model']} on {row['engine']} loses {row['drop']:.2f} points; {row['allowed']} are allowed")
    return 1 if lost else 0


if __name__ == "__main__":
    import sys

    sys.exit(main(sys.argv[1:]))
