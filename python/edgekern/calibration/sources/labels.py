"""The class of each sample: from the folders that samples lie in, or from a CSV."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgekern import files
from edgekern.calibration.sources.base import Array
from edgekern.errors import ArgumentValueError

_MAX_BYTES = 1 << 28
_MOST_CLASS = 2**31 - 1
FOLDERS = "folders"


def labels_of(paths: Sequence[Path], given: str | Path | Sequence[int] | Array, *, offset: int = 0) -> Array:
    """Class numbers of files, (files,) int64.

    Parameters
    ----------
    paths : the files, in the order of samples
    given : ``"folders"``: the folder that a file lies in is its class, by its number where all names are numbers, else
        by its place among the sorted names. A path: a CSV with the columns ``file`` and ``label``, or without a
        header, file first and label second. Numbers: one a file.
    offset : added to each; 1 for models whose class 0 is the background
    """
    if isinstance(given, str) and given == FOLDERS:
        numbers = _by_folder(paths)
    elif isinstance(given, (str, Path)):
        numbers = _by_csv(paths, Path(given))
    else:
        numbers = check_labels(given, len(paths))
    return numbers + offset


def read_labels(given: Any) -> Any:
    """The numbers in a ``.npy`` file; anything else as it is."""
    if not isinstance(given, (str, os.PathLike)) or Path(given).suffix.lower() != ".npy":
        return given
    try:
        with files.open_regular(given, function="samples") as file:
            return np.load(file, allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise ArgumentValueError(f"samples: {os.fspath(given)} is no .npy file of labels: {error}") from error


def check_labels(given: object, count: int) -> Array:
    """One class number a sample, as int64."""
    numbers = np.asarray(given)
    if numbers.ndim != 1 or len(numbers) != count or numbers.dtype.kind not in "iu":
        raise ArgumentValueError(
            f"samples: labels must be one integer for each of {count} samples, got {numbers.dtype} of shape "
            f"{numbers.shape}"
        )
    if numbers.size and int(numbers.max()) > _MOST_CLASS:
        raise ArgumentValueError(f"samples: labels must be numbers of classes, got {numbers.max()}")
    return numbers.astype(np.int64)


def _by_folder(paths: Sequence[Path]) -> Array:
    names = sorted({path.parent.name for path in paths})
    if all(name.isdecimal() and int(name) <= _MOST_CLASS for name in names):
        classes = {name: int(name) for name in names}
    else:
        classes = {name: at for at, name in enumerate(names)}
    if len(names) < 2:
        raise ArgumentValueError(
            f"samples: labels='folders' takes a folder a class, but all files lie in {names[0] if names else 'none'!r}"
            "; give a CSV (--labels FILE.csv)"
        )
    return np.array([classes[path.parent.name] for path in paths], np.int64)


def _by_csv(paths: Sequence[Path], file: Path) -> Array:
    try:
        text = files.read_bytes(file, function="samples", limit=_MAX_BYTES).decode("utf-8-sig")
        rows = [row for row in csv.reader(io.StringIO(text)) if row]
    except (UnicodeDecodeError, csv.Error) as error:
        raise ArgumentValueError(f"samples: {file} is no CSV: {error}") from error
    head = [cell.strip().lower() for cell in rows[0]] if rows else []
    name_at, label_at = (head.index("file"), head.index("label")) if {"file", "label"} <= set(head) else (0, 1)
    classes: dict[str, int] = {}
    for at, row in enumerate(rows[1 if "label" in head else 0 :], 2 if "label" in head else 1):
        try:
            classes[row[name_at].strip()] = label = int(row[label_at])
            if abs(label) > _MOST_CLASS:
                raise ValueError(f"{label} is no class")
        except (IndexError, ValueError) as error:
            raise ArgumentValueError(
                f"samples: {file}, row {at} must hold a file and its class number, got {','.join(row)!r}; name the "
                "columns file and label in a first row"
            ) from error
    found = [next((classes[n] for n in _names(path) if n in classes), None) for path in paths]
    if missing := [str(path) for path, label in zip(paths, found, strict=True) if label is None]:
        raise ArgumentValueError(
            f"samples: {file} has no label for {len(missing)} of {len(paths)} files, such as {missing[0]}; it has "
            f"{len(classes)} rows, by file name or by its last folders and name"
        )
    return np.array(found, np.int64)


def _names(path: Path) -> list[str]:
    """By which a file may stand in a CSV: its name alone, or with as many folders before it as one likes."""
    return ["/".join(path.parts[at:]) for at in range(len(path.parts) - 1, -1, -1)] + [str(path)]
