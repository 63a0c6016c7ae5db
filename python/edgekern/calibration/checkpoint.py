"""A calibration that goes on where it was stopped: its state in a file, tied to its model and its data."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any
from zipfile import BadZipFile

import numpy as np

from edgekern import files
from edgekern._arguments import file_path
from edgekern.errors import CalibrationError
from edgekern.file_kinds import naming_kind
from edgekern.graph.model import model_hash

if TYPE_CHECKING:
    from edgekern.calibration.counting import Counting
    from edgekern.graph.model import ModelLike

_ARRAY = "array"  # what stands for one in the tree
_FEW_VALUES, _BYTES_PER_VALUE = 64, 4  # what the tree takes at least, however it is laid out
SAVE_SECONDS = 30.0


def digest_of(feeds: Mapping[str, Any]) -> bytes:
    """Of names, dtypes, shapes and bytes of a feed, in the order of names."""
    made = hashlib.sha256()
    for name in sorted(feeds):
        array = np.ascontiguousarray(feeds[name])
        made.update(f"{name}\0{array.dtype.str}\0{array.shape}\0".encode())
        made.update(array.reshape(-1).view(np.uint8).data if array.size else b"")
    return made.digest()


def write_state(path: str | os.PathLike[str], state: Mapping[str, Any], function: str) -> None:
    """Nested dicts and lists of arrays, numbers and strings as one ``.npz``, atomically."""
    arrays: list[Any] = []

    def tree(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {str(name): tree(inner) for name, inner in value.items()}
        if isinstance(value, (list, tuple)):
            return [tree(inner) for inner in value]
        if isinstance(value, np.ndarray):
            arrays.append(value)
            return {_ARRAY: len(arrays) - 1}
        return value.item() if isinstance(value, np.generic) else value

    text = np.frombuffer(json.dumps(tree(state)).encode(), np.uint8)
    with files.atomic_write(file_path(function, "path", path), function=function) as file:
        np.savez(file, tree=text, **{str(at): array for at, array in enumerate(arrays)})


def read_state(path: str | os.PathLike[str], function: str) -> dict[str, Any]:
    """What :func:`write_state` wrote. Raises CalibrationError when it is no such file."""
    file = file_path(function, "path", path)
    with naming_kind(file, "a saved calibration", "npz", "zip"):
        try:
            with files.open_regular(file, function=function) as opened, np.load(opened, allow_pickle=False) as loaded:
                if sum(entry.file_size for entry in loaded.zip.infolist()) > os.fstat(opened.fileno()).st_size:
                    raise ValueError("it is compressed, which no such file is")
                text = loaded["tree"].tobytes()
                read = files.parse_json(text, most_values=_FEW_VALUES + len(text) // _BYTES_PER_VALUE)

                def filled(value: Any) -> Any:
                    if isinstance(value, list):
                        return [filled(inner) for inner in value]
                    if not isinstance(value, dict):
                        return value
                    if set(value) == {_ARRAY} and isinstance(value[_ARRAY], int):  # a tensor may have that name
                        return loaded[str(value[_ARRAY])]
                    return {name: filled(inner) for name, inner in value.items()}

                state = filled(read)
                if not isinstance(state, dict):
                    raise ValueError("it holds no state")
                return state
        except (
            ValueError,
            KeyError,
            TypeError,
            EOFError,
            BadZipFile,
            AttributeError,
            RecursionError,
            MemoryError,
        ) as error:
            raise CalibrationError(
                f"{function}: {str(file)!r} is no saved calibration ({error!r}); Calibrator.save writes one"
            ) from error


class Checkpoint:
    """Saves a calibration while it runs, and finds where an earlier run stopped.

    Parameters
    ----------
    calibrator : takes over the saved state, where there is one; it must not have seen anything
    path : where the state goes

    Attributes
    ----------
    done : feeds that the saved state has seen; they are read again, to see that they are the same, and not run

    Raises
    ------
    CalibrationError
        The file is of another model, or of other tensors or observers.
    """

    def __init__(self, calibrator: Counting, path: str | os.PathLike[str]) -> None:
        self._calibrator, self._path = calibrator, file_path("Calibrator.collect_many", "checkpoint", path)
        self._chain, self._seen, self._saved_at = "", 0, time.monotonic()
        self._expected, self.done = "", 0
        if self._path.exists():
            self._take_over()
        else:
            files.check_target(self._path, function="Calibrator.collect_many")

    def _take_over(self) -> None:
        if self._calibrator.num_batches:
            raise CalibrationError(
                f"Calibrator.collect_many: checkpoint {str(self._path)!r} is there, and this calibrator has counted "
                "already; go on with a new one, or name another file"
            )
        state = read_state(self._path, "Calibrator.collect_many")
        try:
            data = state["data"]
            self._expected, self.done = str(data["digest"]), int(data["feeds"])
        except (KeyError, TypeError, ValueError) as error:
            raise CalibrationError(
                f"Calibrator.collect_many: {str(self._path)!r} says nothing of its data; go on with Calibrator.resume, "
                "or name another file"
            ) from error
        load_named(self._calibrator, state, self._path, "Calibrator.collect_many")

    def passed(self, digest: bytes) -> None:
        """One more feed is counted, or was already."""
        self._chain = hashlib.sha256(self._chain.encode() + digest).hexdigest()
        self._seen += 1
        if self._seen == self.done and self._chain != self._expected:
            raise CalibrationError(
                f"Calibrator.collect_many: checkpoint {str(self._path)!r} is of other data: the first {self.done} "
                "feeds are not those that it has counted; remove it, or give the same data in the same order"
            )
        if self._seen > self.done and time.monotonic() - self._saved_at > SAVE_SECONDS:
            self.save()

    def finish(self) -> None:
        """All data went by."""
        if self._seen < self.done:
            raise CalibrationError(
                f"Calibrator.collect_many: checkpoint {str(self._path)!r} is of other data: it has counted {self.done} "
                f"feeds, and there are {self._seen}"
            )
        self.save()

    def save(self) -> None:
        """Write the state, where feeds were counted that the file lacks."""
        if self._seen > self.done:
            data = {"digest": self._chain, "feeds": self._seen}
            write_state(self._path, {**self._calibrator.state_dict(), "data": data}, "Calibrator.collect_many")
        self._saved_at = time.monotonic()


def resumable(model: ModelLike, path: str | os.PathLike[str]) -> tuple[dict[str, Any], list[str], list[str]]:
    """A saved state of this very model, the tensors in it, and the kinds of their observers."""
    state = read_state(path, "Calibrator.resume")
    name, tensors, saved = os.fspath(path), state.get("tensors"), str(state.get("model_hash"))
    if not isinstance(tensors, dict) or not all(isinstance(kinds, dict) for kinds in tensors.values()):
        raise CalibrationError(f"Calibrator.resume: {name!r} is no saved calibration; Calibrator.save writes one")
    own = model_hash(model)
    if saved != own:
        raise CalibrationError(
            f"Calibrator.resume: {name!r} is of another model ({saved[:12]}..., this is {own[:12]}...)"
        )
    return state, list(tensors), list(dict.fromkeys(kind for kinds in tensors.values() for kind in kinds))


def load_named(calibrator: Counting, state: Mapping[str, Any], path: str | os.PathLike[str], function: str) -> None:
    """Take over a state that came from a file; errors name the file."""
    try:
        calibrator.load_state_dict(state)
    except CalibrationError as error:
        message = str(error).partition(": ")[2]
        raise CalibrationError(f"{function}: {os.fspath(path)!r}: {message}") from error
