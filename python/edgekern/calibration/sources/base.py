"""What sample data is made of: the model's inputs, samples one by one, and feeds of several rows."""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from edgekern.errors import ArgumentValueError, LeftOutWarning

Array = npt.NDArray[Any]
Feeds = dict[str, Array]

# Rows of a feed where neither the model nor the user says: what a network keeps of 8 images fits any machine.
DEFAULT_BATCH = 8
_SHOWN = 5  # names of unreadable files in a message


class UnreadableError(ArgumentValueError):
    """One sample is damaged; a few of many may be left out."""


@dataclass(frozen=True)
class Input:
    """One input of a model.

    Attributes
    ----------
    name : str
    shape : its sizes, the batch first; free ones are None or a name
    dtype : NumPy dtype; None where it is not known
    scale, zero_point : of an integer input whose codes stand for ``(code - zero_point) * scale``
    """

    name: str
    shape: tuple[int | str | None, ...]
    dtype: np.dtype[Any] | None = None
    scale: float = 1.0
    zero_point: int = 0

    @property
    def takes_codes(self) -> bool:
        """Whether its integers stand for other numbers."""
        return self.kind.kind in "iu" and (self.scale, self.zero_point) != (1.0, 0)

    def stored(self, values: Array) -> Array:
        """Floats as the input takes them; codes are rounded and clipped.

        Raises
        ------
        ArgumentValueError
            When integers that stand for themselves are wanted, and these are none.
        """
        if self.kind.kind not in "iu":
            return values.astype(self.kind, copy=False)
        limits = np.iinfo(self.kind)
        inside = values.min(initial=0) >= limits.min and values.max(initial=0) <= limits.max
        if not self.takes_codes and not (inside and (np.rint(values) == values).all()):
            raise ArgumentValueError(
                f"samples: input '{self.name}' is {self.kind}, and the model does not say what its codes stand for, "
                f"while these numbers, {values.min():g} to {values.max():g}, are none; give the compiled program, that "
                "knows, or leave scale, mean and std out"
            )
        codes = np.rint(values / np.float32(self.scale)) + self.zero_point
        return codes.clip(limits.min, limits.max).astype(self.kind)

    @property
    def kind(self) -> np.dtype[Any]:
        """The dtype, float32 where it is not known."""
        return self.dtype or np.dtype(np.float32)

    def row_shape(self) -> tuple[int, ...]:
        """Shape of one sample. Raises ArgumentValueError when a size of it is free."""
        row = self.shape[1:]
        if not all(isinstance(size, int) for size in row):
            shown = "(" + ", ".join("?" if size is None else str(size) for size in self.shape) + ")"
            raise ArgumentValueError(
                f"samples: input {self.name!r} has the shape {shown}, so the size of a sample is not known; fix it "
                f"with shapes={{{self.name!r}: ...}} (--shape {self.name}=...)"
            )
        return tuple(size for size in row if isinstance(size, int))


class Source(Protocol):
    """Samples one by one, by number; what a reader of one kind of file has to write."""

    @property
    def preprocessing(self) -> Mapping[str, Any] | None:
        """How files became arrays, of what JSON holds; None where they were arrays."""
        ...

    @property
    def labels(self) -> Array | None:
        """(samples,) int64 class of each sample, where the source knows."""
        ...

    def __len__(self) -> int: ...

    def read(self, number: int) -> Feeds:
        """One sample without the batch dimension. Raises :class:`UnreadableError` when it is damaged."""
        ...

    def join(self, rows: Sequence[Feeds]) -> Feeds:
        """Several samples as one feed."""
        ...


class Samples(ABC):
    """Feeds of one data set, of known number and as often as one likes.

    Attributes
    ----------
    preprocessing : how files became arrays, of what JSON holds; None where they were arrays
    labels : (samples,) int64 class of each sample; None where the data has none
    unreadable : names of the samples that the last pass left out because they are damaged
    """

    preprocessing: Mapping[str, Any] | None = None
    labels: Array | None = None
    unreadable: tuple[str, ...] = ()

    @abstractmethod
    def __len__(self) -> int:
        """Number of feeds; one fewer may come where damaged samples are left out."""

    @abstractmethod
    def numbered(self) -> Iterator[tuple[list[int], Feeds]]:
        """Each feed with the numbers of the samples in it."""

    @property
    @abstractmethod
    def num_samples(self) -> int:
        """Rows of all feeds."""

    def __iter__(self) -> Iterator[Feeds]:
        for _, feeds in self.numbered():
            yield feeds
            del feeds  # else it would live while the next one is made

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.num_samples} samples in {len(self)} feeds)"


def check_unreadable(names: Sequence[str], total: int, max_unreadable: float) -> None:
    """Raise when more samples are damaged than may be."""
    if len(names) > int(max_unreadable * total):
        raise ArgumentValueError(
            f"samples: {_listed(names)} cannot be read, {len(names)} of {total} so far, and a share of "
            f"{max_unreadable:g} may be; repair or remove them, or raise max_unreadable (--max-unreadable)"
        )


def report_unreadable(names: Sequence[str], total: int) -> None:
    if names:
        message = f"samples: {len(names)} of {total} are left out, for they cannot be read: {_listed(names)}"
        warnings.warn(message, LeftOutWarning, stacklevel=3)


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more


def stack(rows: Sequence[Feeds]) -> Feeds:
    """Rows of equal shapes as one feed."""
    for name, first in rows[0].items():
        for row in rows:
            if row[name].shape != first.shape:
                raise ArgumentValueError(
                    f"samples: samples of input {name!r} vary in shape, {first.shape} and {row[name].shape}, and one "
                    "feed holds one shape; take batch=1 (--batch 1), or bring them to one size"
                )
    return {name: np.stack([row[name] for row in rows]) for name in rows[0]}


def fixed_rows(inputs: Sequence[Input]) -> int | None:
    """The fixed first size that all inputs share."""
    first = {i.shape[0] if i.shape and isinstance(i.shape[0], int) else 0 for i in inputs}
    return int(first.pop() or 0) or None if len(first) == 1 else None


def free_rows(inputs: Sequence[Input]) -> int:
    """The default, where all first sizes are free; else 0."""
    return DEFAULT_BATCH if all(i.shape and not isinstance(i.shape[0], int) for i in inputs) else 0


def only_input(inputs: Sequence[Input], what: str) -> Input:
    if len(inputs) != 1:
        raise ArgumentValueError(
            f"samples: {what} are of one input, but the model has {[i.name for i in inputs]}; write .npz files with an "
            "array for each"
        )
    return inputs[0]


def optional(module: str, what: str, remedy: str) -> Any:
    """A module that the base install lacks. Raises ArgumentValueError that says what to install."""
    try:
        return import_module(module)
    except ImportError as error:
        raise ArgumentValueError(f"samples: {what} need {module.partition('.')[0]}; {remedy}") from error
