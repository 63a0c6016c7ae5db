"""Constants of a model in halves, as halves again: in layouts of their own, padded with zeros, but the same numbers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edgekern._core import Storage
from edgekern.artifact.container import Blob, Halves

_LEAST_BYTES = 1024  # what is smaller saves a line or two of a file
_PROBE = 4096  # items that most constants of other types fail on


def narrowed(content: bytes, halves: Sequence[str]) -> Blob:
    """A blob, or the halves that it widens from to the last bit, where it does."""
    if len(content) < _LEAST_BYTES or len(content) % 4:
        return content
    words = np.frombuffer(content, np.uint32)
    for name in halves:
        if _narrow(words[:_PROBE], name) is not None and (found := _narrow(words, name)) is not None:
            return Halves(found, Storage.F16 if name == "float16" else Storage.BF16)
    return content


def _narrow(words: np.ndarray[tuple[int], np.dtype[np.uint32]], name: str) -> bytes | None:
    """The halves that are these float32, given by their bits; None where one of them is no half."""
    if name == "bfloat16":
        return None if (words & 0xFFFF).any() else (words >> 16).astype(np.uint16).tobytes()
    with np.errstate(over="ignore", invalid="ignore"):
        halves = words.view(np.float32).astype(np.float16)
    same = halves.astype(np.float32).view(np.uint32) == words
    return halves.tobytes() if same.all() else None
