"""Reading what a command line gives: feeds from files (.npz holds one array an input by name, .npy the array of a
model's only input), and sizes of dimensions."""

import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO
from zipfile import BadZipFile

import numpy as np
import numpy.typing as npt

from edgekern import files
from edgekern.errors import ArgumentValueError, MemoryBudgetError
from edgekern.file_kinds import naming_kind

Feeds = dict[str, npt.NDArray[Any]]

# Rows of a feed where neither the model nor the user says: what a network keeps of 8 images fits any machine.
DEFAULT_BATCH = 8
_NPY_MAGIC = b"\x93NUMPY"


def read_feeds(
    paths: Sequence[Path], inputs: Mapping[str, Sequence[Any]], *, batch: int | None = None
) -> Iterator[Feeds]:
    """Read feeds batch by batch: a .npy is mapped, of a .npz one array an input is in memory.

    Parameters
    ----------
    paths : files, or folders whose .npz and .npy files are taken in the order of their names
    inputs : the model's inputs by name, with their shapes; arrays of other names are left alone
    batch : rows of a feed, the last one of a file with what is left; 0 takes a file as one feed. None is what the
        model takes: its fixed first size, :data:`DEFAULT_BATCH` where that is free, a whole file where inputs differ

    Raises
    ------
    ArgumentValueError
        A folder is empty, a file is not NumPy's, an input has no array, the arrays have unequal numbers of rows, or
        their rows are no multiple of what the model takes.
    MemoryBudgetError
        Memory cannot hold an array.
    """
    fixed = _fixed_rows(inputs) if batch is None else None
    batch = (fixed or _free_rows(inputs)) if batch is None else batch
    for path in data_files(paths):
        with naming_kind(path, "a .npz or .npy file", "npz", "npy", "zip"):
            feeds = _read(path, list(inputs))
        if not batch:
            yield {name: np.asarray(array) for name, array in feeds.items()}
            continue
        rows = {name: array.shape[0] if array.ndim else 0 for name, array in feeds.items()}
        if len(set(rows.values())) != 1:
            raise ArgumentValueError(f"data: {path} cannot be cut into batches; its arrays have {rows} rows")
        count = next(iter(rows.values()))
        if fixed and count % fixed:
            raise ArgumentValueError(
                f"data: {path} has {count} rows, but the model takes {fixed} at a time; cut or pad it, or "
                "make the model for another batch"
            )
        for start in range(0, count, batch):
            yield {name: np.array(array[start : start + batch]) for name, array in feeds.items()}


def read_shapes(function: str, given: Sequence[str] | None) -> dict[str, Any] | None:
    """``["input_ids=1,16|128", "sequence=128"]`` as a mapping; a ``?`` leaves a size to the model, and a ``|`` stands
    between several.

    Raises
    ------
    ArgumentValueError
        Something is not of that form.
    """
    shapes: dict[str, Any] = {}
    for text in given or ():
        name, _, sizes = text.rpartition("=")
        parts = [part.strip() for part in sizes.split(",")]
        if not name or not all(part == "?" or all(map(str.isdecimal, part.split("|"))) for part in parts):
            raise ArgumentValueError(f"{function}: --shape takes NAME=SIZE or NAME=SIZE,SIZE,..., got {text!r}")
        read = [None if part == "?" else [int(size) for size in part.split("|")] for part in parts]
        entries = tuple(sizes[0] if sizes is not None and len(sizes) == 1 else sizes for sizes in read)
        shapes[name] = entries[0] if len(entries) == 1 and entries[0] is not None else entries
    return shapes or None


def read_sizes(function: str, given: str) -> int | list[int]:
    """``"8"``, or ``"1,2,4,8"`` for several.

    Raises
    ------
    ArgumentValueError
        Something is not of that form, or no positive number.
    """
    parts = [part.strip() for part in given.split(",")]
    if not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise ArgumentValueError(f"{function}: --batch takes a size, or several as 1,2,4,8, got {given!r}")
    return int(parts[0]) if len(parts) == 1 else [int(part) for part in parts]


def read_pads(function: str, given: Sequence[str] | None) -> dict[str, float] | None:
    """``["attention_mask=0"]`` as a mapping.

    Raises
    ------
    ArgumentValueError
        Something is not of that form.
    """
    pads: dict[str, float] = {}
    for text in given or ():
        name, _, value = text.rpartition("=")
        try:
            pads[name] = int(value) if value.lstrip("-").isdecimal() else float(value)
        except ValueError:
            name = ""
        if not name:
            raise ArgumentValueError(f"{function}: --pad takes NAME=NUMBER, got {text!r}")
    return pads or None


def data_files(paths: Sequence[Path]) -> Iterator[Path]:
    """The files themselves, and those in the folders."""
    for path in paths:
        found = sorted(path.glob("*.np[yz]")) if path.is_dir() else [path]
        if not found:
            raise ArgumentValueError(f"data: {path} holds no .npz and no .npy file")
        yield from found


def _read(path: Path, inputs: Sequence[str]) -> Feeds:
    with files.open_regular(path, function="data") as file:
        try:
            # A .npy is mapped by its name, so that only the rows of a batch are read.
            loaded = np.load(path if file.read(6) == _NPY_MAGIC else _rewound(file), mmap_mode="r", allow_pickle=False)
            found = loaded if isinstance(loaded, np.ndarray) else {n: loaded[n] for n in inputs if n in loaded}
        except MemoryError as error:
            raise MemoryBudgetError(f"data: {path} has an array that memory cannot hold: {error}") from error
        except (ValueError, EOFError, BadZipFile, zlib.error, NotImplementedError) as error:
            raise ArgumentValueError(f"data: {path} is not a .npz or .npy file: {error}") from error
    if isinstance(found, np.ndarray):
        if len(inputs) != 1:
            raise ArgumentValueError(f"data: {path} is one array but the model has inputs {list(inputs)}; use .npz")
        return {inputs[0]: found}
    missing = [name for name in inputs if name not in found]
    if missing:
        raise ArgumentValueError(f"data: {path} has no array for {missing}; it holds {loaded.files}")
    return found


def _rewound(file: BinaryIO) -> BinaryIO:
    file.seek(0)
    return file


def _fixed_rows(inputs: Mapping[str, Sequence[Any]]) -> int | None:
    """The fixed first size that all inputs share."""
    first = {shape[0] if shape and isinstance(shape[0], int) else 0 for shape in inputs.values()}
    return first.pop() or None if len(first) == 1 else None


def _free_rows(inputs: Mapping[str, Sequence[Any]]) -> int:
    """The default, where all first sizes are free; else 0."""
    free = all(shape and not isinstance(shape[0], int) for shape in inputs.values())
    return DEFAULT_BATCH if free else 0
