"""What an observer promises, and what the calibrator has to know of a kind of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, Protocol, Self, TypeVar

import numpy as np
import numpy.typing as npt

from edgekern.errors import CalibrationError

if TYPE_CHECKING:
    from edgekern.graph.skeleton import Skeleton


class Observer(Protocol):
    """Keeps what some method wants to know of all values that pass through one tensor, and never the values.

    What is kept is a function of the multiset of samples (axis 0) alone: however they are cut into arrays and batches,
    ordered, and spread over observers that are merged, the states are equal, to the bit. So counts and sums are
    integers. A kind that cannot promise this says so: ``Kind.needs_order``.
    """

    def update(self, x: npt.NDArray[Any], /) -> Self:
        """Add the samples of one array of floats; it is not kept, and may have no samples."""
        ...

    def merge(self, other: Self, /) -> Self:
        """Add what another one of the same kind kept. Associative and commutative; a new observer changes nothing."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """All that is kept, under names, as arrays of numbers, numbers, strings or lists of strings.

        No objects, so that ``np.savez(file, **state)`` and JSON (of ``array.tolist()``) take it.
        """
        ...

    def load_state_dict(self, state: Mapping[str, Any], /) -> Self:
        """Keep what a saved state kept, instead: as :meth:`state_dict` gave it, or NumPy or JSON gave it back.

        Raises
        ------
        CalibrationError
            When it is no such state or contradicts itself; the observer is then as it was.
        """
        ...


_O = TypeVar("_O", bound=Observer)


def update_each(pairs: Iterable[tuple[Observer, npt.NDArray[Any]]]) -> None:
    """Update each observer with its array."""
    for observer, x in pairs:
        observer.update(x)


def merged(observer: Observer, later: Observer) -> None:
    """Add a batch that was observed apart."""
    observer.merge(later)


@dataclass(frozen=True)
class Kind(Generic[_O]):
    """One kind of observer, as :data:`edgekern.calibration.observers.kinds.KINDS` lists them.

    Attributes
    ----------
    make : callable. A new one.
    watches : callable, optional. Names of a model's tensors that are worth it; None is all.
    update_all : callable. Updates many at once, each with an array of its own.
    follow : callable. Adds to an observer what another one has seen, the next batch alone.
    needs_order : whether it depends on the order of the batches, against what :class:`Observer` promises, and refuses
        to be merged.
    """

    make: Callable[[], _O]
    watches: Callable[[Skeleton], Iterable[str]] | None = None
    update_all: Callable[[Iterable[tuple[_O, npt.NDArray[Any]]]], None] = update_each
    follow: Callable[[_O, _O], object] = merged
    needs_order: bool = False


@contextmanager
def reading_state(observer: str) -> Iterator[None]:
    """Whatever goes wrong while a state is read has one meaning."""
    try:
        yield
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise CalibrationError(
            f"{observer}.load_state_dict: state is not one that state_dict() made ({error!r})"
        ) from error


def whole_numbers(given: object, dtype: npt.DTypeLike) -> npt.NDArray[Any]:
    """A saved vector of integers; ValueError when it is none, or a value does not fit."""
    array = np.asarray(given)
    if array.ndim != 1 or (array.size and array.dtype.kind not in "iu"):
        raise ValueError(f"{array.dtype} values of shape {array.shape} are no vector of integers")
    limits = np.iinfo(dtype)
    if array.size and not limits.min <= int(array.min()) <= int(array.max()) <= limits.max:
        raise ValueError(f"values {array.min()}..{array.max()} do not fit {np.dtype(dtype)}")
    return array.astype(dtype)
