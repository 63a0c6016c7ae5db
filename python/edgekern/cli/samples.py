"""Commands on sample data: calibrate, write calibration sets, evaluate."""

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from edgekern import calibration, files, runtime
from edgekern.analysis.evaluation import evaluate as evaluated
from edgekern.calibration import table as tables
from edgekern.calibration.sources import Samples, files_of
from edgekern.calibration.sources.writers import Form, write_samples
from edgekern.cli.data import read_shapes
from edgekern.cli.terminal import printable
from edgekern.errors import ArgumentValueError
from edgekern.file_kinds import kind_of_file
from edgekern.graph.model import model_files
from edgekern.quantization import choose_ranges
from edgekern.quantization.try_methods import METHODS


@dataclass(frozen=True)
class DataOptions:
    """How data is read, as the command line has it; None and empty leave it to :func:`edgekern.samples`."""

    kind: str | None = None
    batch: int | None = None
    limit: int | None = None
    preset: str | None = None
    size: str | None = None
    crop: str | None = None
    scale: float | None = None
    mean: str | None = None
    std: str | None = None
    channels: str | None = None
    layout: str | None = None
    labels: Path | None = None
    label_offset: int = 0
    rate: int | None = None
    tokenizer: Path | None = None
    max_length: int | None = None
    max_unreadable: float | None = None
    preprocessing: Path | None = None


def open_data(data: Sequence[Path], inputs: Any, given: DataOptions, shapes: dict[str, Any] | None = None) -> Samples:
    options: dict[str, Any] = {
        "preset": given.preset,
        "size": _sizes("size", given.size),
        "crop": _sizes("crop", given.crop),
        "scale": given.scale,
        "mean": _numbers("mean", given.mean),
        "std": _numbers("std", given.std),
        "channels": given.channels,
        "layout": given.layout,
        "rate": given.rate,
        "tokenizer": given.tokenizer,
        "max_length": given.max_length,
        "max_unreadable": given.max_unreadable,
    }
    if given.preprocessing is not None:
        saved = calibration.Ranges.load(given.preprocessing).preprocessing
        if saved is None:
            raise ArgumentValueError(f"samples: {given.preprocessing} does not say how its data was preprocessed")
        options["preprocessing"] = saved
    labels = None if given.labels is None else str(given.labels)
    return calibration.samples(
        list(data),
        inputs,
        kind=given.kind,
        batch=given.batch,
        limit=given.limit,
        labels=labels,
        label_offset=given.label_offset,
        shapes=shapes,
        **{name: value for name, value in options.items() if value is not None},
    )


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
    inputs = [*model_files(model, function="calibrate"), *files_of(data)]
    files.check_target(output, function="calibrate", inputs=inputs)
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
    asked = [str(ranges.options[name]) for name in ("percentile", "exponent") if name in ranges.options]
    return " ".join([ranges.method, *asked])


def calibration_set(
    data: Sequence[Path],
    model: Path,
    output: Path,
    *,
    form: Form,
    given: DataOptions,
    shapes: list[str] | None = None,
) -> str:
    read = open_data(data, _inputs(model), given, read_shapes("calibration-set", shapes))
    count = write_samples(read, output, form, inputs=[*files_of(data), model], progress=sys.stderr.isatty())
    return printable("\n".join([f"{output}: {count} samples as {form}", *_told(read)]))


def evaluate(
    model: Path,
    data: Sequence[Path],
    *,
    versus: Path | None,
    given: DataOptions,
    top: str,
    output: str | None,
    as_json: bool,
) -> str:
    session = runtime.InferenceSession(model) if kind_of_file(model) == "ekm" else None
    read = open_data(data, session or model, given)
    ranks = [int(k) if k.strip().isdecimal() else 0 for k in top.split(",")]
    result = evaluated(session or model, read, top=ranks, versus=versus, output=output)
    return result.to_json() if as_json else printable("\n".join([f"{model}: {result}", *_told(read)]))


def _inputs(model: Path) -> Any:
    return runtime.InferenceSession(model) if kind_of_file(model) == "ekm" else model


def _told(read: Samples) -> list[str]:
    """How the data was made, for the eyes of those who know how the model was trained."""
    if read.preprocessing is None:
        return []
    shown = {name: value for name, value in read.preprocessing.items() if name != "kind" and value is not None}
    return [f"{read.preprocessing['kind']}: " + ", ".join(f"{name} {value}" for name, value in shown.items())]


def _sizes(name: str, given: str | None) -> int | tuple[int, ...] | None:
    """``"256"`` is one side, ``"224x192"`` or ``"224,192"`` height and width."""
    if given is None:
        return None
    parts = given.lower().replace("x", ",").split(",")
    if not all(part.strip().isdecimal() for part in parts) or len(parts) > 2:
        raise ArgumentValueError(f"samples: --{name} takes N or HEIGHTxWIDTH, got {given!r}")
    sides = tuple(int(part) for part in parts)
    return sides[0] if len(sides) == 1 else sides


def _numbers(name: str, given: str | None) -> tuple[float, ...] | float | None:
    if given is None:
        return None
    try:
        numbers = tuple(float(part) for part in given.split(","))
    except ValueError as error:
        raise ArgumentValueError(f"samples: --{name} takes numbers with commas between, got {given!r}") from error
    return numbers[0] if len(numbers) == 1 else numbers
