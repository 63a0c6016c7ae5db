"""Samples as they are, as many as a limit in bytes allows: those of the lowest hashes, in whatever order they come."""

from __future__ import annotations

import bisect
import hashlib
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Generic, Self, TypeVar

import numpy as np
import numpy.typing as npt

from edgekern.calibration.observers.base import reading_state

LIMIT_BYTES = 1 << 20
_END = "g"  # behind every hexadecimal digest
_T = TypeVar("_T")


class LowestHashes(Generic[_T]):
    """Items by their digests: in the order of digests, as many as fit.

    What is kept is the longest run of lowest digests within the limits, a function of the set of items: equal ones
    count once. So the first digest that did not fit is kept as well; nothing behind it may come in, however small.

    Parameters
    ----------
    limit_bytes : of all items
    most : number of items, optional
    least : so many are kept even beyond ``limit_bytes``
    """

    def __init__(self, limit_bytes: int, *, most: int | None = None, least: int = 0) -> None:
        self._limit, self._most, self._least = limit_bytes, most, least
        self._digests: list[str] = []
        self._items: dict[str, tuple[int, _T]] = {}
        self._total, self.end = 0, _END

    def offer(self, digest: str, size: int, item: Callable[[], _T]) -> None:
        """Keep an item of ``size`` bytes, where it is among the lowest; ``item`` is called then alone."""
        if digest >= self.end or digest in self._items:
            return
        bisect.insort(self._digests, digest)
        self._items[digest] = size, item()
        self._total += size
        while not self._fits(len(self._digests), self._total):
            self._drop_last()

    def merge(self, other: LowestHashes[_T]) -> None:
        """Add what another one kept."""
        self.cut(other.end)
        for digest, (size, item) in other._items.items():
            self.offer(digest, size, lambda item=item: item)  # type: ignore[misc]

    def cut(self, end: str) -> None:
        """Keep nothing from this digest on."""
        while self._digests and self._digests[-1] >= end:
            self._drop_last()
        self.end = min(self.end, end)

    def items(self) -> Iterator[tuple[str, _T]]:
        """Digest and item, lowest first."""
        return ((digest, self._items[digest][1]) for digest in self._digests)

    @property
    def nbytes(self) -> int:
        return self._total

    def __len__(self) -> int:
        return len(self._digests)

    def _fits(self, count: int, total: int) -> bool:
        return count <= self._least or (total <= self._limit and (self._most is None or count <= self._most))

    def _drop_last(self) -> None:
        self.end = self._digests.pop()
        self._total -= self._items.pop(self.end)[0]


def digest_of(*arrays: npt.NDArray[Any]) -> str:
    """A hash of arrays: types, shapes and bytes."""
    found = hashlib.blake2b(digest_size=16)
    for array in arrays:
        found.update(f"{array.dtype}{array.shape}".encode())
        found.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    return found.hexdigest()


class KeptSamples:
    """Samples (axis 0) of one tensor as float32, at most ``limit_bytes`` of them: those of the lowest hashes.

    A random choice that depends on the samples alone, not on their order; equal samples count once. A sample that is
    larger than the limit is never kept, nor anything of a higher hash.
    """

    def __init__(self, limit_bytes: int = LIMIT_BYTES) -> None:
        self._limit = limit_bytes
        self._kept: LowestHashes[npt.NDArray[np.float32]] = LowestHashes(limit_bytes)

    def __repr__(self) -> str:
        return f"KeptSamples({len(self._kept)} samples, {self._kept.nbytes} of at most {self._limit} bytes)"

    @property
    def limit_bytes(self) -> int:
        """What the samples may take."""
        return self._limit

    @property
    def samples(self) -> list[npt.NDArray[np.float32]]:
        """What is kept, in the order of the hashes."""
        return [sample for _, sample in self._kept.items()]

    def update(self, x: npt.NDArray[Any]) -> Self:
        """Offer every sample of an array; a scalar has none."""
        if x.ndim and x.size:
            with np.errstate(over="ignore"):
                floats = np.ascontiguousarray(x, np.float32)
            for sample in floats:
                self._kept.offer(digest_of(np.asarray(sample)), sample.nbytes, sample.copy)
        return self

    def merge(self, other: KeptSamples) -> Self:
        """Offer what another one kept."""
        self._kept.merge(other._kept)
        return self

    def state_dict(self) -> dict[str, Any]:
        """What is kept: all values in one array, and the shape of each sample."""
        samples = self.samples
        values = np.concatenate([sample.reshape(-1) for sample in samples]) if samples else np.zeros(0, np.float32)
        shapes = [",".join(map(str, sample.shape)) for sample in samples]
        return {"bits": values.view(np.uint32), "shapes": shapes, "end": self._kept.end, "limit_bytes": self._limit}

    def load_state_dict(self, state: Mapping[str, Any]) -> Self:
        """Keep what a saved state had kept, instead.

        Raises
        ------
        CalibrationError
            When the state was not made by :meth:`state_dict`.
        """
        with reading_state("KeptSamples"):
            end, limit = str(state["end"]), int(state["limit_bytes"])
            bits, texts = np.asarray(state["bits"]), np.asarray(state["shapes"])
            if bits.ndim != 1 or (bits.size and bits.dtype.kind not in "iu") or texts.ndim != 1 or limit < 0:
                raise ValueError(f"{bits.dtype} of shape {bits.shape} are no samples of at most {limit} bytes")
            if bits.size and not 0 <= int(bits.min()) <= int(bits.max()) < 1 << 32:
                raise ValueError("the values are not float32")
            values, at = bits.astype(np.uint32).view(np.float32), 0
            fresh = KeptSamples(limit)
            for text in texts.tolist():
                shape = tuple(int(side) for side in text.split(",") if side)
                size = math.prod(shape)
                if size < 0 or at + size > values.size:
                    raise ValueError(f"no sample of shape {shape} is left of {values.size} values")
                fresh.update(values[at : at + size].reshape(1, *shape))
                at += size
            if at != values.size or len(fresh._kept) != len(texts) or (len(end) != 32 and end != _END):
                raise ValueError(f"{len(texts)} samples of {values.size} values that end at {end!r}")
            if any(digest >= end for digest, _ in fresh._kept.items()):
                raise ValueError("a sample lies behind the end")
            fresh._kept.cut(end)
        self._limit, self._kept = limit, fresh._kept
        return self
