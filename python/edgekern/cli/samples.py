"""Commands on sample data: calibrate, write calibration sets, evaluate."""

import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import numpy as np

from edgekern import calibration, files, runtime
from edgekern.analysis.evaluation import evaluate as evaluated
from edgekern.artifact import Program
from edgekern.calibration import table as tables
from edgekern.calibration.sources import Samples, files_of
from edgekern.calibration.sources.inputs import inputs_of
from edgekern.calibration.sources.writers import Form, write_samples
from edgekern.cli.data import read_shapes
from edgekern.cli.sources import DataOptions, open_data, told
from edgekern.cli.terminal import printable
from edgekern.errors import ArgumentValueError
from edgekern.file_kinds import kind_of_file
from edgekern.graph.model import model_files
from edgekern.quantization import choose_ranges
from edgekern.quantization.try_methods import METHODS


def calibrate(
    model: Path,
    data: Sequence[Path],
    output: Path,
    *,
    method: Literal["best", calibration.AnyMethod],
    given: DataOptions,
    shapes: list[str] | None = None,
    workers: int | None = None,
    checkpoint: Path | None = None,
    table: bool = False,
    as_json: bool = False,
) -> str:
    inputs = [*model_files(model, function="calibrate"), *files_of(data), *given.files]
    files.check_target(output, function="calibrate", inputs=inputs)
    if checkpoint is not None and checkpoint.resolve() == output.resolve():
        raise ArgumentValueError(f"calibrate: --output and --checkpoint are both {output}; write to two files")
    fixed = read_shapes("calibrate", shapes)
    calibrator = calibration.Calibrator(model, shapes=fixed)
    read = open_data(data, calibrator, given)
    calibrator.collect_many(read, workers=workers, checkpoint=checkpoint)
    if method == "best":
        ranges = choose_ranges(calibrator, model, shapes=fixed)
    else:
        ranges = calibrator.compute_ranges(method=method)
    ranges.save(output)
    how = _method(ranges) + (f", the best of {len(METHODS)} methods" if method == "best" else "")
    done = f"{output}: {len(ranges)} ranges by {how}, of {read.num_samples - len(read.unreadable)} samples"
    rows = tables.table_of(ranges, calibrator.histograms) if table or as_json else []
    if as_json:
        return json.dumps({"file": str(output), "method": ranges.method, "tensors": tables.as_dicts(rows)}, indent=1)
    return printable("\n".join([*([tables.as_text(rows)] if table else []), done, *_told(read)]))


def _method(ranges: calibration.Ranges) -> str:
    told = [ranges.options[name] for name in ("percentile", "exponent") if name in ranges.options]
    return " ".join([ranges.method, *(f"{value:g}" for value in told if (ranges.method, value) != ("mse", 2.0))])


def calibration_set(
    data: Sequence[Path],
    model: Path,
    output: Path,
    *,
    form: Form,
    given: DataOptions,
    shapes: list[str] | None = None,
) -> str:
    opened, sizes = _inputs(model), read_shapes("calibration-set", shapes)
    read = open_data(data, opened, given, sizes)
    count = write_samples(
        read,
        output,
        form,
        model=inputs_of(opened, sizes),
        inputs=[*files_of(data), model],
        progress=sys.stderr.isatty(),
    )
    return printable("\n".join([f"{output}: {count} samples as {form}", *_told(read)]))


def evaluate(
    model: Path,
    data: Sequence[Path],
    *,
    versus: Path | None,
    given: DataOptions,
    top: str | None,
    output: str | None,
    as_json: bool,
) -> str:
    session = runtime.InferenceSession(model) if kind_of_file(model) == "ekm" else None
    read = open_data(
        data, model if session is None else inputs_for_both(session, versus), given, made_for=session or model
    )
    ranks = None if top is None else [int(k) if k.strip().isdecimal() else 0 for k in top.split(",")]
    result = evaluated(session or model, read, top=ranks, versus=versus, output=output)
    return result.to_json() if as_json else printable("\n".join([f"{model}: {result}", *_told(read)]))


def inputs_for_both(program: runtime.InferenceSession | Program, versus: Path | None) -> Any:
    """Those of the program; beside a float model the numbers that its codes stand for, for both."""
    inputs = inputs_of(program)
    if versus is None or not any(one.takes_codes for one in inputs):
        return program
    numbers = [replace(one, dtype=np.dtype(np.float32), scale=1.0, zero_point=0) for one in inputs]
    return SimpleNamespace(inputs=[two if one.takes_codes else one for one, two in zip(inputs, numbers, strict=True)])


def _inputs(model: Path) -> Any:
    return runtime.InferenceSession(model) if kind_of_file(model) == "ekm" else model


def _told(read: Samples) -> list[str]:
    return [] if read.preprocessing is None else [told(read.preprocessing)]
