"""A few samples of what was fed, to run again when thresholds are chosen by what the layers make of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from edgekern.calibration.observers.kept_samples import LowestHashes, digest_of

Arrays = dict[str, npt.NDArray[Any]]

MOST_SAMPLES = 32
LIMIT_BYTES = 16 << 20


class KeptFeeds:
    """At most :data:`MOST_SAMPLES` samples within a limit in bytes, the first of them however large.

    A sample is a row where every input leaves its first size free, else a whole batch. Which ones are kept depends on
    the samples alone, not on the order or on the batches they came in.
    """

    def __init__(self, limit_bytes: int, *, by_row: bool) -> None:
        self.limit_bytes, self._by_row = limit_bytes, by_row
        self._kept: LowestHashes[Arrays] = LowestHashes(
            limit_bytes, most=MOST_SAMPLES if limit_bytes else 0, least=min(limit_bytes, 1)
        )

    def __len__(self) -> int:
        return len(self._kept)

    def emptied(self) -> KeptFeeds:
        """New ones with the same limits that keep nothing yet."""
        return KeptFeeds(self.limit_bytes, by_row=self._by_row)

    def __iter__(self) -> Iterator[Arrays]:
        return (arrays for _, arrays in self._kept.items())

    def offer(self, arrays: Mapping[str, npt.NDArray[Any]]) -> None:
        """Keep what is chosen of a batch; it is copied."""
        if not arrays or not self.limit_bytes:
            return
        rows = {array.shape[0] if array.ndim else 0 for array in arrays.values()}
        if self._by_row and len(rows) == 1:
            for at in range(rows.pop()):
                self._offer({name: array[at : at + 1] for name, array in arrays.items()})
        else:
            self._offer(arrays)

    def merge(self, other: KeptFeeds) -> None:
        """Add what another one kept."""
        self._kept.merge(other._kept)

    def state_dict(self) -> dict[str, Any]:
        """The samples, and where they end."""
        return {"samples": [dict(arrays) for arrays in self], "end": self._kept.end, "limit_bytes": self.limit_bytes}

    def loaded(self, state: Mapping[str, Any], dtypes: Mapping[str, np.dtype[Any] | None]) -> KeptFeeds:
        """New ones of a saved state; KeyError, TypeError or ValueError where it is none."""
        fresh = KeptFeeds(int(state["limit_bytes"]), by_row=self._by_row)
        samples: Sequence[Mapping[str, Any]] = state["samples"]
        for arrays in samples:
            if set(arrays) != set(dtypes):
                raise ValueError(f"a sample has {sorted(arrays)}, the model takes {sorted(dtypes)}")
            fresh._offer({name: _array(arrays[name], dtypes[name]) for name in arrays})
        if len(fresh) != len(samples):
            raise ValueError(f"{len(samples)} samples are not those that are kept")
        fresh._kept.cut(str(state["end"]))
        return fresh

    def _offer(self, arrays: Mapping[str, npt.NDArray[Any]]) -> None:
        names = sorted(arrays)
        size = sum(array.nbytes for array in arrays.values())
        digest = digest_of(*(arrays[name] for name in names))
        self._kept.offer(digest, size, lambda: {name: np.array(arrays[name]) for name in names})


def _array(given: object, dtype: np.dtype[Any] | None) -> npt.NDArray[Any]:
    raw = isinstance(given, np.ndarray) and given.dtype.kind == "V"  # bfloat16 out of a file of NumPy's
    return given.view(dtype) if raw else np.asarray(given, dtype)  # type: ignore[attr-defined]
