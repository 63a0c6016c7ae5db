"""What methods take back of what rounding costs: ``python -m bench methods [--models NAME ...] [--small PATH ...]``.

A row is a recipe and a rounding of :class:`edgekern.QuantConfig`: the squared error at the logits (or whatever the
first output is) over that of rounding each weight to its nearest by the same recipe, biases corrected or not as in all
rows; the signal to noise of it; how often the largest logit is the float model's; the figure that labels give; and the
seconds that quantizing took, samples included. Models are those of ``bench accuracy``, nets that ``bench small_nets``
has trained, and MiniLM; ranges and second moments are of the same samples, and none of them is judged. The programs run
on edgekern's own core.
"""

import argparse
import time
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import get_args

import numpy as np

import edgekern as ek
from bench.accuracy_cases import Array, Case, makers
from bench.datasets import DATA_ROOT
from bench.harness import Row, machine, print_table, sqnr_db, write_json
from bench.real_inputs import Feeds
from edgekern._onnxruntime import open_session
from edgekern.errors import EdgekernWarning
from edgekern.quantization.config import ModelRecipe, Rounding

ROUNDINGS: tuple[str, ...] = ("nearest", *(name for name in get_args(Rounding) if name != "nearest"))
RECIPES = ("w8a8", "w4a8")
COLUMNS = {
    "model": "s",
    "recipe": "s",
    "rounding": "s",
    "samples": "d",
    "error": ".3f",
    "sqnr_db": ".2f",
    "agree": ".2f",
    "float": ".2f",
    "figure": ".2f",
    "seconds": ".1f",
}


def _answers(run: object, feeds: Sequence[Feeds]) -> Array:
    """The first outputs, one behind the other."""
    return np.concatenate([run.run(None, dict(feed))[0] for feed in feeds])  # type: ignore[attr-defined]


def measure_case(
    name: str, case: Case, recipes: Sequence[str], roundings: Sequence[str], bias_correction: bool, kept: Sequence[str]
) -> Iterator[Row]:
    """A row for each recipe and rounding; the first rounding is what errors are told by."""
    calibrator = ek.Calibrator(case.path, progress=False).collect_many(case.calibration)
    ranges = calibrator.compute_ranges()
    exact = _answers(open_session(str(case.path), num_threads=1, as_written=True), case.judged)
    for recipe in recipes:
        plain = None
        for rounding in roundings:
            choice = {"recipe": recipe, "rounding": rounding, "bias_correction": bias_correction, "keep_float": kept}
            config = ek.QuantConfig(**choice)  # type: ignore[arg-type]
            start = time.perf_counter()
            qdq = ek.quantize(case.path, ranges, config, samples=case.calibration)
            seconds = time.perf_counter() - start
            program = ek.compile(qdq, shapes=case.shapes)
            found = _answers(ek.InferenceSession(program), case.judged)
            error = float(np.square(found.astype(np.float64) - exact).sum())
            plain = error if plain is None else plain
            same = None if case.axis is None else found.argmax(case.axis) == exact.argmax(case.axis)
            yield {
                "model": name,
                "recipe": recipe,
                "rounding": rounding,
                "samples": len(case.judged),
                "error": error / plain,
                "sqnr_db": sqnr_db(exact, found),
                "agree": None if same is None else 100 * float(same.mean()),
                "float": None if case.figure is None else case.figure(exact),
                "figure": None if case.figure is None else case.figure(found),
                "seconds": seconds,
            }


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench methods", description=__doc__)
    parser.add_argument("--models", nargs="+", default=["resnet20", "mobilenetv2"], help="parts of names")
    parser.add_argument(
        "--small", type=Path, nargs="*", default=[], help="folders with other models, as bench accuracy"
    )
    parser.add_argument("--recipes", nargs="+", choices=get_args(ModelRecipe), default=RECIPES)
    parser.add_argument("--roundings", nargs="+", choices=ROUNDINGS, default=ROUNDINGS)
    parser.add_argument("--calibrate", type=int, default=128, help="samples that ranges and moments are of")
    parser.add_argument("--judge", type=int, default=1000, help="samples that are judged, where there are as many")
    parser.add_argument("--keep-float", nargs="+", default=[], metavar="RULE", help="what stays float32 in every row")
    parser.add_argument("--no-bias-correction", action="store_true", help="in any row, nearest too")
    parser.add_argument("--json", type=Path, help="append one JSON object a row to this file")
    options = parser.parse_args(argv)
    if not DATA_ROOT.is_dir() and not options.small:
        parser.error(f"no data at {DATA_ROOT}; set EDGEKERN_TEST_DATA")
    corrected, kept = not options.no_bias_correction, options.keep_float
    cases = makers(options.small, options.models, options.calibrate, options.judge, options.calibrate)
    rows: list[Row] = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", EdgekernWarning)
        for name, make in cases:
            for row in measure_case(name, make(), options.recipes, options.roundings, corrected, kept):
                rows.append(row)  # as they come: the next may take minutes
                write_json(options.json, [{**row, **machine(["edgekern", "onnxruntime", "onnx"])}])
    print_table(rows, COLUMNS)
    return 0
