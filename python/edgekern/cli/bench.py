"""What a model costs on this machine; programs need no toolkit."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from edgekern import benchmark
from edgekern.artifact import TensorInfo
from edgekern.calibration.sources.arrays import data_files, read_feeds
from edgekern.calibration.sources.base import Feeds
from edgekern.cli.data import read_shapes, read_sizes
from edgekern.cli.sources import PLAIN, DataOptions, are_arrays, open_data
from edgekern.cli.terminal import printable, quiet_bar
from edgekern.errors import ArgumentValueError
from edgekern.file_kinds import kind_of_file
from edgekern.runtime import random_feeds


def bench(
    model: Path,
    data: Sequence[Path],
    *,
    versus: Path | None,
    threads: Sequence[int],
    batch: str,
    shapes: Sequence[str] | None,
    runs: int | None,
    seconds: float | None,
    weights: Sequence[str],
    isa: str | None,
    allow_host: bool,
    as_json: bool,
    mode: str | None = None,
    given: DataOptions = PLAIN,
) -> str:
    if runs is not None and seconds is not None:
        raise ArgumentValueError("bench: give --runs or --seconds, not both")
    lasting = benchmark.DEFAULT_SECONDS if seconds is None else seconds
    report: benchmark.ModelReport | benchmark.BatchesReport | benchmark.DecoderReport
    rows = read_sizes("bench", batch)
    if kind_of_file(model) in ("ekm", "onnx"):
        if weights:
            raise ArgumentValueError(f"bench: --weights is of language models, and {model} is none")
        options: dict[str, Any] = {
            "versus": versus,
            "num_threads": threads,
            "shapes": read_shapes("bench", shapes),
            "data": _reader(model, data, given),
            "runs": runs,
            "seconds": lasting,
            "isa": isa,
            "allow_host": allow_host,
            "mode": mode,
            "progress": quiet_bar,
        }
        report = (
            benchmark.bench_model(model, batch=rows, **options)
            if isinstance(rows, int)
            else benchmark.bench_batches(model, rows, **options)
        )
    else:
        if versus is not None or data or shapes or rows != 1 or isa is not None or mode is not None:
            raise ArgumentValueError(
                "bench: data, --vs, --batch, --shape, --isa and --mode are of programs and ONNX models, and "
                f"{model} is none"
            )
        report = benchmark.bench_decoder(
            model, weights=weights or ("int8",), num_threads=threads, runs=runs, seconds=lasting, progress=quiet_bar
        )
    return report.to_json() if as_json else printable(report.table())


def _reader(model: Path, data: Sequence[Path], given: DataOptions) -> Callable[[Sequence[TensorInfo]], Feeds]:
    """Gives the first feeds of the data, or random ones."""
    if not data:
        return random_feeds
    arrays = are_arrays(data, given)
    sources = list(data_files(data)) if arrays else []

    def read(inputs: Sequence[TensorInfo]) -> Feeds:
        feeds: Iterable[Feeds] = (
            read_feeds(sources, {info.name: info.shape for info in inputs})
            if arrays
            else open_data(data, SimpleNamespace(inputs=inputs), given, made_for=model)
        )
        found = next(iter(feeds), None)
        if found is None:
            raise ArgumentValueError("bench: the data holds no rows; give one, or none for random numbers")
        return found

    return read
