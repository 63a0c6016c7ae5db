"""Commands from float model to float model: what makes weights and activations round better, or to zero."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from edgekern import files, quantization
from edgekern._reports import table
from edgekern.calibration.sources import files_of
from edgekern.cli.damage import few
from edgekern.cli.sources import DataOptions, open_data
from edgekern.cli.terminal import printable
from edgekern.errors import ArgumentValueError
from edgekern.graph.model import model_files
from edgekern.quantization.config import GroupRecipe, GroupScales

Feeds = Iterable[Mapping[str, Any]]


def smooth(model: Path, data: Sequence[Path], output: Path, *, alpha: str, insert: bool, given: DataOptions) -> str:
    power: Any = alpha if alpha == "auto" else _number("smooth", "alpha", alpha)
    return _made(
        "smooth",
        model,
        data,
        output,
        given,
        lambda feeds: quantization.smooth(model, feeds, alpha=power, insert=insert),
    )


def equalize(model: Path, data: Sequence[Path], output: Path, *, given: DataOptions) -> str:
    return _made(
        "equalize", model, data, output, given, lambda feeds: quantization.equalize(model, feeds if data else None)
    )


def awq(
    model: Path,
    data: Sequence[Path],
    output: Path,
    *,
    recipe: GroupRecipe,
    scales: GroupScales,
    insert: bool,
    given: DataOptions,
) -> str:
    config = quantization.QuantConfig(recipe=recipe, group_scales=scales)
    return _made("awq", model, data, output, given, lambda feeds: quantization.awq(model, feeds, config, insert=insert))


def rotate(model: Path, output: Path, *, seed: int) -> str:
    return _made("rotate", model, (), output, DataOptions(), lambda _: quantization.rotate(model, seed=seed))


def sparsify(
    model: Path,
    data: Sequence[Path],
    output: Path,
    *,
    method: Literal["magnitude", "wanda"],
    sparsity: float | None,
    pattern: str | None,
    keep: Sequence[str],
    given: DataOptions,
) -> str:
    def make(feeds: Feeds) -> Any:
        samples: Any = feeds if data else None
        return quantization.sparsify(
            model, method=method, sparsity=sparsity, pattern=pattern, samples=samples, keep=keep
        )

    done = _made("sparsify", model, data, output, given, make)
    rows = list(quantization.sparsity_of(output).items())
    return "\n".join([printable(table({"layer": "<", "zeros": ".1%"}, rows)), done])


def _made(
    function: str,
    model: Path,
    data: Sequence[Path],
    output: Path,
    given: DataOptions,
    make: Callable[[Feeds], Any],
) -> str:
    """Write what is made of a model and a few samples."""
    inputs = [*model_files(model, function=function), *files_of(data), *given.files]
    files.check_target(output, function=function, inputs=inputs)
    feeds: Feeds = few(open_data(data, model, given), given) if data else ()
    made = make(feeds)
    with files.atomic_write(output, function=function, inputs=inputs) as file:
        file.write(made.SerializeToString())
    return printable(f"{output}: {output.stat().st_size} bytes, {len(made.graph.node)} nodes")


def _number(function: str, option: str, given: str) -> float:
    try:
        return float(given)
    except ValueError as error:
        raise ArgumentValueError(f"{function}: --{option} must be a number or 'auto', got {given!r}") from error
