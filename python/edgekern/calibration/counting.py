"""What those who feed a calibrator need of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, Self


class Counting(Protocol):
    """The side of :class:`edgekern.Calibrator` that counts feeds, and adds and saves what was counted."""

    @property
    def num_batches(self) -> int: ...

    def collect(self, feeds: Any, /) -> Self: ...

    def emptied(self, *, progress: bool | None = None) -> Self: ...

    def merge(self, other: Self, /) -> Self: ...

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: Mapping[str, Any], /) -> Self: ...
