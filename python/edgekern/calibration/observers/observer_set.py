"""The observers of all tensors of a model, handled as one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Self

import numpy.typing as npt

from edgekern.calibration.observers.base import Observer
from edgekern.calibration.observers.kinds import KINDS
from edgekern.errors import CalibrationError

if TYPE_CHECKING:
    from edgekern.graph.skeleton import Skeleton


class ObserverSet(Mapping[str, Mapping[str, Observer]]):
    """Observers by the name of the tensor, then by their kind.

    Parameters
    ----------
    kinds : mapping of tensor name to the kinds of observers that it has
    """

    def __init__(self, kinds: Mapping[str, Iterable[str]]) -> None:
        self._tensors = {name: {kind: KINDS[kind].make() for kind in kinds[name]} for name in kinds}

    @classmethod
    def of_model(cls, model: Skeleton, names: Sequence[str], kinds: Sequence[str]) -> Self:
        """Observers of some kinds, for those of a model's tensors that each kind is for."""
        watched = {kind: set(names if (which := KINDS[kind].watches) is None else which(model)) for kind in kinds}
        return cls({name: [kind for kind in kinds if name in watched[kind]] for name in names})

    def __getitem__(self, name: str) -> Mapping[str, Observer]:
        return self._tensors[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)

    @property
    def kinds(self) -> list[str]:
        """All that some tensor has."""
        return list(dict.fromkeys(kind for observers in self.values() for kind in observers))

    @property
    def ordered(self) -> list[str]:
        """The kinds that depend on the order of the batches."""
        return [kind for kind in self.kinds if KINDS[kind].needs_order]

    def of(self, arrays: Mapping[str, npt.NDArray[Any]]) -> Self:
        """New observers of the same kinds, which have seen these arrays alone."""
        fresh = type(self)({name: self[name] for name in arrays})
        for kind in fresh.kinds:
            KINDS[kind].update_all((fresh[name][kind], x) for name, x in arrays.items() if kind in fresh[name])
        return fresh

    def follow(self, later: Mapping[str, Mapping[str, Observer]]) -> Self:
        """Add what others kept of the next batch, of some tensors or all."""
        for name, observers in later.items():
            for kind, observer in observers.items():
                KINDS[kind].follow(self[name][kind], observer)
        return self

    def emptied(self) -> Self:
        """New observers of the same kinds, which have seen nothing."""
        return type(self)(self)

    def merge(self, other: Mapping[str, Mapping[str, Observer]]) -> Self:
        """Add what others kept, of some tensors or all."""
        for name, observers in other.items():
            for kind, observer in observers.items():
                self[name][kind].merge(observer)
        return self

    def state_dict(self) -> dict[str, dict[str, dict[str, Any]]]:
        """What each observer kept, by tensor and kind."""
        return {
            name: {kind: observer.state_dict() for kind, observer in observers.items()}
            for name, observers in self.items()
        }

    def loaded(self, function: str, state: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> Self:
        """New observers of the same kinds that keep what a saved state kept; an error says whose state is damaged."""
        fresh = type(self)(self)
        for name, observers in fresh.items():
            for kind, observer in observers.items():
                try:
                    observer.load_state_dict(state[name][kind])
                except CalibrationError as error:
                    raise CalibrationError(f"{function}: {kind} of tensor {name!r}: {error}") from error
        return fresh

    def difference(self, other: Mapping[str, Iterable[str]]) -> str | None:
        """What another set, or the state of one, has otherwise, in words; None when it has the same."""
        if different := set(other) ^ set(self):
            return f"observes other tensors; {min(different)!r} is in one of them only"
        for name, observers in self.items():
            if different := set(other[name]) ^ set(observers):
                return f"has other observers of {name!r}; {min(different)!r} is in one of them only"
        return None
