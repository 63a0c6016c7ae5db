"""Samples as other tools take them: raw files, one file of all, an input list, or NumPy's."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from edgekern import files
from edgekern.calibration.progress import progress_bar
from edgekern.calibration.sources.base import Array, Feeds, Input, Samples
from edgekern.calibration.sources.raw import describe, header_path
from edgekern.errors import ArgumentTypeError, ArgumentValueError

Form = Literal["bin", "calib_set", "input_list", "npz"]
_FUNCTION = "calibration-set"
_SAFE = re.compile(r"[A-Za-z0-9_.-]+")


def write_samples(
    samples: Samples,
    output: Path,
    form: Form,
    *,
    model: Sequence[Input] = (),
    inputs: Sequence[Path] = (),
    progress: bool = False,
) -> int:
    """Write samples in one of the forms, and return how many.

    Parameters
    ----------
    samples : what to write
    output : a file for "calib_set" (with its description beside it) and a new or empty folder for the others
    form : "bin", a raw file a sample, in folders by input where there are several; "input_list", the same with QNN's
        list; "calib_set", all samples in one file; "npz", a file a feed
    model : inputs that the samples must fit; none are held to nothing
    inputs : files that must not be written over
    progress : whether to show a bar

    Raises
    ------
    ArgumentValueError
        The folder holds something, there are no samples, one does not fit the model, or those of one file vary in
        shape.
    """
    if not output.name:
        raise ArgumentValueError(f"{_FUNCTION}: output must be the name of a file or folder, got {str(output)!r}")
    if not samples.num_samples:
        raise ArgumentValueError(f"{_FUNCTION}: the data holds no samples")
    samples = _Fitting(samples, model)
    if form == "calib_set":
        return _calib_set(samples, output, inputs, progress)
    output.mkdir(exist_ok=True)
    if any(output.iterdir()):
        raise ArgumentValueError(f"{_FUNCTION}: {output} is not empty; write to a new folder")
    if form == "npz":
        count = 0
        for number, (rows, feeds) in enumerate(_shown(samples, progress)):
            with files.atomic_write(output / f"{number:06d}.npz", function=_FUNCTION) as file:
                np.savez(file, allow_pickle=False, **feeds)
            count += rows
        return count
    lines, count = [], 0
    for row in _rows(samples, progress):
        names = {name: _raw_name(name, count, many=len(row) > 1) for name in row}
        for name, array in row.items():
            target = output / names[name]
            target.parent.mkdir(exist_ok=True)
            with files.atomic_write(target, function=_FUNCTION) as file:
                file.write(np.ascontiguousarray(array).tobytes())
        lines.append(" ".join(f"{name}:={where}" for name, where in names.items()))
        count += 1
    if form == "input_list":
        with files.atomic_write(output / "input_list.txt", function=_FUNCTION) as file:
            file.write(("\n".join(lines) + "\n").encode())
    return count


class _Fitting(Samples):
    """Samples that are held to the inputs of a model."""

    def __init__(self, samples: Samples, model: Sequence[Input]) -> None:
        self._samples, self._model = samples, model
        self.preprocessing = samples.preprocessing

    def __len__(self) -> int:
        return len(self._samples)

    @property
    def num_samples(self) -> int:
        return self._samples.num_samples

    def numbered(self) -> Iterator[tuple[list[int], Feeds]]:
        for numbers, feeds in self._samples.numbered():
            for given in self._model:
                self._check(given, np.asarray(feeds[given.name]))
            yield numbers, feeds

    def _check(self, given: Input, array: Array) -> None:
        told, rest = f"{_FUNCTION}: samples of input {given.name!r}", given.shape[1:]
        if given.dtype is not None and array.dtype != given.dtype:
            raise ArgumentTypeError(f"{told} must be {given.dtype}, got {array.dtype}; convert them with astype")
        fits = array.ndim == len(given.shape) and all(
            not isinstance(want, int) or want == have for want, have in zip(rest, array.shape[1:], strict=True)
        )
        if not fits:
            raise ArgumentValueError(f"{told} must have the shape {rest}, got {array.shape[1:]}")


def _calib_set(samples: Samples, output: Path, inputs: Sequence[Path], progress: bool) -> int:
    count, first = 0, None
    beside = header_path(output)
    files.check_target(beside, function=_FUNCTION, inputs=inputs)
    with files.atomic_write(output, function=_FUNCTION, inputs=inputs) as file:
        for row in _rows(samples, progress):
            first = row if first is None else first
            for name, array in row.items():
                if array.shape != first[name].shape:
                    raise ArgumentValueError(
                        f"{_FUNCTION}: sample {count} of input {name!r} has shape {array.shape}, others have "
                        f"{first[name].shape}, and one file holds one shape; bring them to one size"
                    )
                file.write(np.ascontiguousarray(array).tobytes())
            count += 1
    with files.atomic_write(beside, function=_FUNCTION, inputs=inputs) as file:
        file.write(describe(first or {}, count, samples.preprocessing))
    return count


def _rows(samples: Samples, progress: bool) -> Iterator[Feeds]:
    """Samples one by one, without the batch dimension."""
    for rows, feeds in _shown(samples, progress):
        for at in range(rows):
            yield {name: np.asarray(array)[at] for name, array in feeds.items()}


def _shown(samples: Samples, progress: bool) -> Iterator[tuple[int, Mapping[str, Any]]]:
    with progress_bar("writing", len(samples), enabled=progress) as step:
        for numbers, feeds in samples.numbered():
            yield len(numbers), feeds
            step()


def _raw_name(name: str, number: int, *, many: bool) -> str:
    if not many:
        return f"{number:06d}.bin"
    if not _SAFE.fullmatch(name) or name in (os.curdir, os.pardir):
        raise ArgumentValueError(f"{_FUNCTION}: input {name!r} cannot name a folder; write --form npz or calib_set")
    return f"{name}/{number:06d}.bin"
