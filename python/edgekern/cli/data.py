"""Reading feeds from files: .npz holds one array an input by name, .npy the array of a model's only input."""

import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import numpy.typing as npt

from edgekern import files
from edgekern.errors import ArgumentValueError, MemoryBudgetError

Feeds = dict[str, npt.NDArray[Any]]


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
            loaded = np.load(file, allow_pickle=False)
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


def read_feeds(paths: Sequence[Path], inputs: Sequence[str], *, batch: int | None = None) -> Iterator[Feeds]:
    """Read feeds file by file, so that only one file is in memory.

    Parameters
    ----------
    paths : files, or folders whose .npz and .npy files are taken in the order of their names
    inputs : the model's input names; arrays of other names are left alone
    batch : rows of a feed; None takes a file as one feed

    Raises
    ------
    ArgumentValueError
        A folder is empty, a file is not NumPy's, an input has no array, or the arrays have unequal numbers of rows.
    """
    for path in data_files(paths):
        feeds = _read(path, inputs)
        if batch is None:
            yield feeds
            continue
        rows = {name: array.shape[0] if array.ndim else 0 for name, array in feeds.items()}
        if len(set(rows.values())) != 1:
            raise ArgumentValueError(f"data: {path} cannot be cut into batches; its arrays have {rows} rows")
        for start in range(0, next(iter(rows.values())), batch):
            yield {name: array[start : start + batch] for name, array in feeds.items()}
