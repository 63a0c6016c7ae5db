"""Feeds from NumPy's files: .npz holds one array an input by name, .npy the array of a model's only input."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO
from zipfile import BadZipFile, ZipFile

import numpy as np

from edgekern import files
from edgekern.calibration.sources.base import Feeds, Input, Samples, fixed_rows, free_rows
from edgekern.errors import ArgumentValueError, MemoryBudgetError
from edgekern.file_kinds import naming_kind

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
    fixed, batch = _rows_of_feeds(inputs, batch)
    for path in data_files(paths):
        with naming_kind(path, "a .npz or .npy file", "npz", "npy", "zip"):
            feeds = _read(path, list(inputs))
        if not batch:
            yield {name: np.asarray(array) for name, array in feeds.items()}
            continue
        if without := [name for name, array in feeds.items() if not array.ndim]:
            raise ArgumentValueError(f"data: {path} has one number for {without}, but the model takes rows of it")
        rows = {name: array.shape[0] for name, array in feeds.items()}
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
        except (ValueError, OverflowError, EOFError, BadZipFile, zlib.error, NotImplementedError) as error:
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


class ArraySamples(Samples):
    """The feeds of :func:`read_feeds`, which see. Only the headers of files are read to count them."""

    def __init__(self, paths: Sequence[Path], inputs: Sequence[Input], *, batch: int | None = None) -> None:
        self._paths = list(data_files(paths))
        self._inputs = {given.name: given.shape for given in inputs}
        self._batch = batch

    def __len__(self) -> int:
        batch = _rows_of_feeds(self._inputs, self._batch)[1]
        return sum(-(-rows // batch) if batch else 1 for rows in map(self._rows, self._paths))

    @property
    def num_samples(self) -> int:
        return sum(map(self._rows, self._paths))

    def numbered(self) -> Iterator[tuple[list[int], Feeds]]:
        first = 0
        for feeds in read_feeds(self._paths, self._inputs, batch=self._batch):
            array = next(iter(feeds.values()))
            rows = array.shape[0] if array.ndim else 1
            yield list(range(first, first + rows)), feeds
            first += rows
            del feeds, array

    def _rows(self, path: Path) -> int:
        """Rows of the first input in a file; 1 where it has no rows, or cannot be read: reading it will say so."""
        name = f"{next(iter(self._inputs), '')}.npy"
        try:
            with files.open_regular(path, function="data") as file:
                if file.read(len(_NPY_MAGIC)) == _NPY_MAGIC:
                    return _header_rows(_rewound(file))
                with ZipFile(_rewound(file)) as archive, archive.open(name) as member:
                    return _header_rows(member)
        except (ValueError, KeyError, EOFError, BadZipFile, zlib.error, NotImplementedError):
            return 1


def _header_rows(file: Any) -> int:
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape = read(file)[0]
    return max(int(shape[0]), 0) if shape else 1  # of a damaged one; reading it will say so


def _rows_of_feeds(inputs: Mapping[str, Sequence[Any]], batch: int | None) -> tuple[int | None, int]:
    """The fixed number of rows that files must be a multiple of, and the rows of a feed, 0 for a whole file."""
    if batch is not None:
        return None, batch
    given = [Input(name, tuple(shape)) for name, shape in inputs.items()]
    fixed = fixed_rows(given)
    return fixed, fixed or free_rows(given)
