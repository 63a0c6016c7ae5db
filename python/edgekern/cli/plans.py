"""Commands that choose recipes of layers: search and quantize-to."""

from collections.abc import Sequence
from pathlib import Path

from edgekern import analysis, calibration, files
from edgekern.calibration.sources import files_of
from edgekern.cli.data import read_shapes
from edgekern.cli.gates import read_latency, shown
from edgekern.cli.sources import DataOptions, as_ranges, open_data
from edgekern.errors import ArgumentValueError
from edgekern.graph.model import model_files


def search(
    model: Path,
    ranges: Path,
    data: Sequence[Path],
    output: Path,
    *,
    max_ms: str | None,
    max_bytes: str | None,
    max_bits: float | None,
    max_share: float | None,
    candidates: Sequence[str],
    method: str,
    given: DataOptions,
    shapes: list[str] | None,
    num_threads: int | None,
    as_json: bool,
) -> str:
    inputs = [*model_files(model, function="search"), ranges, *files_of(data), *given.files]
    files.check_target(output, function="search", inputs=inputs)
    budget = {"max_ms": _ms(max_ms), "max_bytes": max_bytes, "max_bits": max_bits, "max_share": max_share}
    sizes = read_shapes("search", shapes)
    found = analysis.search(
        model,
        calibration.Ranges.load(ranges),
        open_data(data, model, as_ranges(given, ranges), sizes),
        candidates=tuple(candidates) or None,  # type: ignore[arg-type]
        method=method,  # type: ignore[arg-type]
        shapes=sizes,
        num_threads=num_threads,
        **budget,  # type: ignore[arg-type]
    )
    found.plan.save(output)
    last = f"{output}: {len(found.plan.choices)} nodes; edit it, and edgekern quantize --apply {output}"
    return shown(found, [str(found), last], as_json)


def quantize_to(
    model: Path,
    ranges: Path | None,
    data: Sequence[Path],
    output: Path,
    *,
    max_drop: float,
    recipe: str,
    undo: str,
    plan: Path | None,
    most_put_back: int,
    given: DataOptions,
    shapes: list[str] | None,
    num_threads: int | None,
    as_json: bool,
) -> tuple[str, bool]:
    """What to print, and whether the model was written."""
    inputs = [*model_files(model, function="quantize_to"), *files_of(data), *given.files]
    inputs += [ranges] if ranges else []
    for target in (output, plan):
        if target is not None:
            files.check_target(target, function="quantize_to", inputs=inputs)
    if plan is not None and plan.resolve() == output.resolve():
        raise ArgumentValueError(f"quantize_to: --output and --plan are both {output}; write to two files")
    sizes = read_shapes("quantize_to", shapes)
    done = analysis.quantize_to(
        model,
        calibration.Ranges.load(ranges) if ranges else None,
        open_data(data, model, as_ranges(given, ranges), sizes),
        max_drop=max_drop,
        recipe=recipe,  # type: ignore[arg-type]
        undo=undo,  # type: ignore[arg-type]
        most_put_back=most_put_back,
        shapes=sizes,
        num_threads=num_threads,
    )
    if plan is not None:
        done.plan.save(plan)
    if done.passed:
        with files.atomic_write(output, function="quantize_to", inputs=inputs) as file:
            file.write(done.model.SerializeToString())
        last = f"{output}: {output.stat().st_size} bytes"
    else:
        last = f"{output} was not written, for the model loses too much"
    return shown(done, [str(done), last], as_json), done.passed


def _ms(given: str | None) -> float | None:
    """A time as other commands take it; a plain number is milliseconds."""
    try:
        return None if given is None else float(given)
    except ValueError:
        return read_latency("search", given, "--max-ms")
