"""What a model costs on this machine; programs need no toolkit."""

from collections.abc import Callable, Sequence
from pathlib import Path

from edgekern import benchmark
from edgekern.artifact import TensorInfo
from edgekern.calibration.sources.arrays import data_files, read_feeds
from edgekern.calibration.sources.base import Feeds
from edgekern.cli.data import read_shapes
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
    batch: int,
    shapes: Sequence[str] | None,
    runs: int | None,
    seconds: float | None,
    weights: Sequence[str],
    isa: str | None,
    allow_host: bool,
    as_json: bool,
) -> str:
    if runs is not None and seconds is not None:
        raise ArgumentValueError("bench: give --runs or --seconds, not both")
    lasting = benchmark.DEFAULT_SECONDS if seconds is None else seconds
    report: benchmark.ModelReport | benchmark.DecoderReport
    if kind_of_file(model) in ("ekm", "onnx"):
        if weights:
            raise ArgumentValueError(f"bench: --weights is of language models, and {model} is none")
        report = benchmark.bench_model(
            model,
            versus=versus,
            num_threads=threads,
            batch=batch,
            shapes=read_shapes("bench", shapes),
            data=_reader(data),
            runs=runs,
            seconds=lasting,
            isa=isa,
            allow_host=allow_host,
            progress=quiet_bar,
        )
    else:
        if versus is not None or data or shapes or batch != 1 or isa is not None:
            raise ArgumentValueError(
                f"bench: data, --vs, --batch, --shape and --isa are of programs and ONNX models, and {model} is none"
            )
        report = benchmark.bench_decoder(
            model, weights=weights or ("int8",), num_threads=threads, runs=runs, seconds=lasting, progress=quiet_bar
        )
    return report.to_json() if as_json else printable(report.table())


def _reader(data: Sequence[Path]) -> Callable[[Sequence[TensorInfo]], Feeds]:
    """Gives the first feeds of the data, or random ones."""
    if not data:
        return random_feeds
    sources = list(data_files(data))

    def read(inputs: Sequence[TensorInfo]) -> Feeds:
        found = next(iter(read_feeds(sources, {info.name: info.shape for info in inputs})), None)
        if found is None:
            raise ArgumentValueError("bench: the data holds no rows; give one, or none for random numbers")
        return found

    return read
