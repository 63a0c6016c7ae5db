"""Sample data, as a command line names it and says how it is read."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from edgekern import calibration
from edgekern.artifact import Program
from edgekern.artifact.manifest import QUANTIZATION_KEY, told_by_quantizer
from edgekern.calibration.sources import Samples
from edgekern.calibration.sources.open_samples import kind_of_data
from edgekern.calibration.sources.preprocessing import is_of_kind
from edgekern.cli.terminal import printable
from edgekern.errors import ArgumentValueError
from edgekern.file_kinds import kind_of_file
from edgekern.runtime import InferenceSession


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

    @property
    def files(self) -> list[Path]:
        """What is read beside the data, and is not to be written over."""
        return [file for file in (self.labels, self.tokenizer, self.preprocessing) if file is not None]


PLAIN = DataOptions()
_HOW = ("preset", "size", "crop", "scale", "mean", "std", "channels", "layout", "rate", "max_length", "preprocessing")


def open_data(
    data: Sequence[Path],
    inputs: Any,
    given: DataOptions,
    shapes: dict[str, Any] | None = None,
    *,
    made_for: Any = None,
) -> Samples:
    """Feeds of ``inputs``; where nothing says how files become arrays, ``made_for`` does, which is a session, a program
    or an ONNX model, and ``inputs`` where nothing is given."""
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
    elif all(getattr(given, name) is None for name in _HOW):
        carried = _carried(inputs if made_for is None else made_for)
        if carried is not None and is_of_kind(carried, kind_of(data, given)):
            options["preprocessing"] = carried
            print(f"edgekern: data is read as the model says: {printable(told(carried))}", file=sys.stderr)
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


def as_ranges(given: DataOptions, ranges: Path | None) -> DataOptions:
    """Options that read data as the ranges' was, where nothing else is said."""
    said = any(getattr(given, name) is not None for name in _HOW)
    if ranges is None or said or calibration.Ranges.load(ranges).preprocessing is None:
        return given
    return replace(given, preprocessing=ranges)


def feeds_for(session: InferenceSession, data: Sequence[Path], given: DataOptions, rows: int | None) -> Samples:
    """Feeds of a session, of ``rows`` rows; 0 is those of its smallest program, None what it takes."""
    smallest = next((info.shape[0] for info in session.program.inputs if info.shape), 1)
    return open_data(data, session, replace(given, batch=smallest if rows == 0 else rows))


def kind_of(data: Sequence[Path], given: DataOptions) -> str:
    """One of :data:`edgekern.calibration.sources.KINDS_OF_DATA`."""
    return given.kind or kind_of_data(data)


def are_arrays(data: Sequence[Path], given: DataOptions) -> bool:
    """Whether data is arrays, which have no options of other data."""
    if kind_of(data, given) != "arrays":
        return False
    for name in ("limit", "preset", "size", "tokenizer"):
        if getattr(given, name) is not None:
            option = "samples" if name == "limit" else name
            raise ArgumentValueError(f"samples: --{option} is no option of arrays; leave it out")
    return True


def told(preprocessing: Mapping[str, Any]) -> str:
    """For the eyes of those who know how the model was trained."""
    shown = {name: value for name, value in preprocessing.items() if name != "kind" and value is not None}
    return f"{preprocessing.get('kind')}: " + ", ".join(f"{name} {value}" for name, value in shown.items())


def _carried(model: Any) -> Mapping[str, Any] | None:
    """How the data was made on which a model was calibrated, as it says itself."""
    if isinstance(model, InferenceSession):
        return model.program.preprocessing
    if isinstance(model, Program):
        return model.preprocessing
    if not isinstance(model, Path):
        return None
    if kind_of_file(model) == "ekm":
        return Program.load(model, verify="lazy").preprocessing
    from edgekern.graph.model import open_model  # onnx takes a second to import

    entries = {one.key: one.value for one in open_model(model, function="samples").proto.metadata_props}
    found = told_by_quantizer(entries.get(QUANTIZATION_KEY, ""), "preprocessing")
    return found if isinstance(found, dict) else None


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
