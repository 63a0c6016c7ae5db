"""Commands that end with a verdict: validate and compress."""

import re
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from edgekern import analysis, calibration, files, quantization, runtime
from edgekern.analysis.gates import Limits
from edgekern.calibration.sources import Samples, files_of
from edgekern.cli.data import read_shapes
from edgekern.cli.samples import inputs_for_both
from edgekern.cli.sources import DataOptions, as_ranges, open_data, told
from edgekern.cli.terminal import printable
from edgekern.errors import ArgumentValueError
from edgekern.graph.model import model_files

_PER_MS = {"us": 1e-3, "ms": 1.0, "s": 1e3}


def read_latency(function: str, given: str | None, option: str = "--max-latency") -> float | None:
    """Milliseconds of ``"5ms"``, ``"250us"`` or ``"0.1s"``.

    Raises
    ------
    ArgumentValueError
        Something is not of that form.
    """
    if given is None:
        return None
    found = re.fullmatch(r"\s*(\d+(?:\.\d*)?|\.\d+)\s*(us|ms|s)\s*", given, re.ASCII)
    if found is None:
        raise ArgumentValueError(f"{function}: {option} takes a time such as 5ms, 250us or 0.1s, got {given!r}")
    return float(found[1]) * _PER_MS[found[2]]


def validate(
    model: Path,
    data: Sequence[Path],
    *,
    float_model: Path | None,
    limits: Limits,
    checklist: bool,
    ranges: Path | None,
    given: DataOptions,
    top: int,
    runs: int | None,
    output: str | None,
    num_threads: int | None,
    as_json: bool,
) -> tuple[str, bool]:
    """What to print, and whether all is as it must be."""
    if checklist and limits != Limits():
        raise ArgumentValueError("validate: --checklist has limits of its own; give it, or limits, not both")
    session = runtime.InferenceSession(model, num_threads=num_threads)
    read: Samples | None = None
    if data:
        inputs = inputs_for_both(session, float_model)
        read = open_data(data, inputs, as_ranges(given, ranges), made_for=session)
    common: dict[str, Any] = {"float_model": float_model, "output": output}
    report: analysis.Checklist | analysis.Validation
    if checklist:
        saved = calibration.Ranges.load(ranges) if ranges else None
        report = analysis.checklist(session, read, ranges=saved, runs=runs or 1000, **common)
    else:
        del session  # what opening it takes is measured
        asked = {name: getattr(limits, name) for name in Limits.__dataclass_fields__}
        report = analysis.validate(model, read, top=top, runs=runs or 100, num_threads=num_threads, **common, **asked)
    return shown(report, [f"{model}:", str(report), *_how(read)], as_json), report.passed


def compress(
    model: Path,
    data: Sequence[Path],
    output: Path,
    *,
    held_out: Sequence[Path],
    limits: Limits,
    given: DataOptions,
    recipe: str | None,
    method: calibration.AnyMethod | None,
    batch: int,
    shapes: list[str] | None,
    report: Path | None,
    top: int,
    runs: int,
    scores: str | None,
    num_threads: int | None,
    allow_host: bool,
    as_json: bool,
) -> tuple[str, bool]:
    """What to print, and whether the program was written."""
    inputs = [*model_files(model, function="compress"), *files_of([*data, *held_out]), *given.files]
    for target in (output, report):
        if target is not None:
            files.check_target(target, function="compress", inputs=inputs)
    if report is not None and report.resolve() == output.resolve():
        raise ArgumentValueError(f"compress: --output and --report are both {output}; write to two files")
    config = quantization.QuantConfig() if recipe is None else quantization.QuantConfig(recipe=recipe)  # type: ignore[arg-type]
    sizes = read_shapes("compress", shapes)
    given = given if batch == 1 else replace(given, batch=batch)  # feeds that the program takes
    labelled = replace(given, labels=None) if held_out else given
    read = open_data(data, model, labelled, sizes)
    done = analysis.compress(
        model,
        read,
        held_out=open_data(held_out, model, given, sizes) if held_out else None,
        config=config,
        method=method,
        batch=batch,
        shapes=sizes,
        allow_host=allow_host,
        top=top,
        runs=runs,
        output=scores,
        num_threads=num_threads,
        **{name: getattr(limits, name) for name in Limits.__dataclass_fields__},
    )
    if report is not None:
        done.report.to_json(report)
    if done.report.passed:
        done.program.save(output)
        last = f"{output}: {output.stat().st_size} bytes"
    else:
        last = f"{output} was not written, for a gate failed"
    return shown(done.report, [f"{done.report}", *_how(read), last], as_json), done.report.passed


def _how(read: Samples | None) -> list[str]:
    """How the data was made, for the eyes of those who know how the model was trained."""
    return [] if read is None or read.preprocessing is None else [told(read.preprocessing)]


def shown(report: Any, lines: Sequence[str], as_json: bool) -> str:
    """What goes to standard output; beside JSON, the words go to the other one."""
    words = printable("\n".join(lines))
    if not as_json:
        return words
    print(words, file=sys.stderr)
    text: str = report.to_json().rstrip("\n")
    return text
